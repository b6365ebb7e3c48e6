package qemu

import (
	"testing"

	"github.com/vxcan/vxcan/integration/harness"
	"github.com/vxcan/vxcan/pkg/cantest"
)

// TestUSBAdapterConflist is TestUSBAdapterFirst with a CNI configuration list.
func TestUSBAdapterConflist(t *testing.T) {
	harness.FreshHost(t)
	adapter := cantest.NewUSBAdapter(t, "slot0", "A1B2C3")
	a, dir := harness.NewContainer(t, "a"), t.TempDir()
	list := `{"cniVersion":"1.1.0","name":"engine","plugins":[{"type":"vxcan","interface":"can0",` + harness.USBSetUpByUs + `}]}`
	harness.Write(t, dir+"/engine.conflist", list)
	env := []string{"NETCONFPATH=" + dir, "CNI_PATH=" + harness.BinDir(t), harness.BinDir(t) + "/cnitool"}
	t.Logf("%s\n$ cnitool add engine %s\n%s", list, a.Path, harness.Command(t, "env", append(env, "add", "engine", a.Path)...))
	harness.Exchange(t, []harness.Party{{Name: "wire", Listener: adapter.Listen(), Send: adapter.Send, Echo: false}, harness.Host("slot0").Party(t), a.On("can0").Party(t)}, 50, true)
	harness.Command(t, "env", append(env, "check", "engine", a.Path)...)
	harness.Command(t, "env", append(env, "del", "engine", a.Path)...)
}
