package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vxcan/vxcan/pkg/cantest"
)

// NoBus is what heal says on a host without a bus.
const NoBus = "no bus on this host\n"

// Vxcanctl runs vxcanctl and returns what it says.
func Vxcanctl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(BinDir(t), "vxcanctl"), args...).CombinedOutput()
	if err != nil {
		t.Errorf("vxcanctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Control runs vxcanctl, perhaps wrapped by a program, and returns what it says and its exit status.
func Control(t testing.TB, wrap []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	line := append(append(slices.Clone(wrap), filepath.Join(BinDir(t), "vxcanctl")), args...)
	cmd, cancel := Limited(line[0], line[1:]...)
	defer cancel()
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", line, err)
	}
	return out.String(), words.String(), cmd.ProcessState.ExitCode()
}

// BusStatus is a part of what vxcanctl status -o json says of a bus.
type BusStatus struct {
	Hub                    string
	Endpoints, Differences []map[string]any
	Trunks                 []struct {
		Device string
		Denied int
	}
}

// StatusOf is what vxcanctl status says of these buses, or of all.
func StatusOf(t testing.TB, hubs ...string) []BusStatus {
	t.Helper()
	out, words, status := Control(t, nil, append([]string{"status", "-o", "json"}, hubs...)...)
	var document struct {
		Version int
		Buses   []BusStatus
	}
	if err := json.Unmarshal([]byte(out), &document); err != nil || status != 0 || document.Version != 1 {
		t.Fatalf("exit status %d, %v: %s%s", status, err, out, words)
	}
	return document.Buses
}

// WrongWith is what status says is wrong with a bus, as one text.
func WrongWith(t testing.TB, hub string) string {
	t.Helper()
	var all []string
	for _, b := range StatusOf(t, hub) {
		for _, d := range b.Differences {
			all = append(all, fmt.Sprintf("%v: %v", d["what"], d["cure"]))
		}
	}
	return strings.Join(all, "\n")
}

// TwoBuses is a bus with a container of each of two runtimes and one on a controller that has gone bus-off.
func TwoBuses(t *testing.T) {
	t.Helper()
	FreshHost(t)
	controller := cantest.NewController(t, "slot0")
	SetUpController(t, controller, 1000)
	engine := On(NewContainer(t, "engine")).With(OnController)
	engine.Env = []string{"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=lab;K8S_POD_NAME=engine-0"}
	engine.Add(t)
	a, b := NewContainer(t, "a"), NewContainer(t, "b")
	On(a).With(`"send":"100-1FF"`).Add(t)
	NetavarkCall{C: b}.Setup(t, "can0")
	SendAll(t, a, []cantest.Frame{{ID: 0x100}, {ID: 0x101}, {ID: 0x200}})
	BusOff(t, controller)
	time.Sleep(100 * time.Millisecond)
}
