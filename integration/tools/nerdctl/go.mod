// No code: this pins the nerdctl that make test-nerdctl builds, with the checksum of every module in it.
module github.com/vxcan/vxcan/integration/tools/nerdctl

go 1.24.2

require github.com/containerd/nerdctl/v2 v2.1.2
