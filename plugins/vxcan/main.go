// Command vxcan is the CNI plugin that puts a container on a CAN bus of its host. It is executed once per call and
// speaks CNI 0.3.1 to 1.1.0 on environment, stdin and stdout; it logs to stderr.
package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

// buildVersion is set by make: -ldflags '-X main.buildVersion=...'.
var buildVersion = "unknown"

func main() {
	if len(os.Args) == 2 && (os.Args[1] == "--version" || os.Args[1] == "-version") { // no runtime passes arguments
		fmt.Println("vxcan", buildVersion)
		return
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: dropTime})))
	signal.Ignore(unix.SIGPIPE) // so that a runtime that is gone is an error, after which nothing stays
	// skel would look whether the container's netns is the host's when all is done; pkg/bus does so before.
	os.Setenv("CNI_NETNS_OVERRIDE", "1")
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    verb("ADD", cmdAdd),
		Del:    verb(del, cmdDel),
		Check:  verb("CHECK", cmdCheck),
		GC:     verb("GC", cmdGC),
		Status: verb("STATUS", cmdStatus),
	}, version.VersionsStartingFrom("0.3.1"), "vxcan "+buildVersion+", a CNI plugin that puts containers on a CAN bus")
}

// dropTime leaves the time to the program that keeps our stderr; printing one means reading /etc/localtime.
func dropTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
