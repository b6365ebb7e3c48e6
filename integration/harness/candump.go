package harness

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ErrorLines are what a serial adapter says of an acknowledge error, of being error-passive and of bus-off, and ErrorWords
// what candump -e shows of it. The second frame says CAN_ERR_CRTL_RX_PASSIVE and the counters, by CAN_ERR_CNT, which the
// candump of Debian 12 does not know (linux/can/error.h).
var (
	ErrorLines = []string{"e1a\r", "sp128000\r", "sb256000\r"}
	ErrorWords = []string{"no-acknowledgement-on-tx", "20000204   [8]  00 10 00 00 00 00 00 80   ERRORFRAME", "bus-off"}
)

// ExpectSame fails the test unless candump shows the same error frames in a container as on the host, with these words.
func ExpectSame(t *testing.T, onHost, inContainer string, words ...string) {
	t.Helper()
	t.Logf("candump -e in the container:\n%s", inContainer)
	same := func(text string) string { return strings.ReplaceAll(strings.ReplaceAll(text, "slot0", ""), "can0", "") }
	if strings.Join(strings.Fields(same(inContainer)), " ") != strings.Join(strings.Fields(same(onHost)), " ") {
		t.Errorf("candump -e on the host:\n%s", onHost)
	}
	if !strings.Contains(inContainer, "Error class 0x204 is invalid") { // by an old candump
		words = append(words, "error-passive")
	}
	for _, w := range words {
		if !strings.Contains(inContainer, w) {
			t.Errorf("candump says no %s", w)
		}
	}
}

// StartCandump has candump hear a number of error frames, and no others, in a container or, if that is nil, on the host. The
// function it returns waits for them.
func StartCandump(t testing.TB, c *Container, name string, count int) (words func() string) {
	t.Helper()
	var in []string
	if c != nil {
		in = []string{"ip", "netns", "exec", c.ID}
	}
	var out strings.Builder
	args := append(slices.Clone(in), "candump", "-e", "-T", "20000", "-n", strconv.Itoa(count), name+",92345678:DFFFFFFF,#FFFFFFFF")
	cmd, cancel := Limited(args[0], args[1:]...)
	t.Cleanup(cancel)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	args = append(in, "cat", "/proc/net/can/rcvlist_err")
	table := ""
	socket := func() bool { // net/can/proc.c lists the sockets of each device by their error filters
		table, _ = Try(args[0], args[1:]...)
		return strings.Contains(table, name+" ") && !strings.Contains(table, "("+name+": no entry)")
	}
	for deadline := time.Now().Add(20 * time.Second); !socket(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("candump does not listen: %s, %s", table, out.String())
		}
	}
	return func() string {
		_ = cmd.Wait()
		return out.String()
	}
}
