// Command vxcan is the CNI plugin that puts a container on a CAN bus of its host. It is executed once per call and
// speaks CNI 0.3.1 to 1.1.0 on environment, stdin and stdout; it logs to stderr.
package main

import (
	"log/slog"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
)

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    cmdAdd,
		Del:    cmdDel,
		Check:  cmdCheck,
		GC:     cmdGC,
		Status: cmdStatus,
	}, version.VersionsStartingFrom("0.3.1"), "vxcan, the CNI plugin: puts containers on a CAN bus")
}
