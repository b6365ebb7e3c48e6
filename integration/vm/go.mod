module github.com/vxcan/vxcan/integration/vm

go 1.24.2

require (
	golang.org/x/sys v0.41.0
	golang.org/x/term v0.40.0
)
