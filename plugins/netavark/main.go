// Command vxcan of plugins/netavark is the network driver "vxcan" of Podman 4.5 and later: Podman executes it to create
// a network, and netavark to put a container on it. The protocol is netavark's plugin API 1.0.0 (plugin-API.md): a verb
// and the path of a netns as arguments, JSON on stdin and stdout.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/vxcan/vxcan/pkg/config"
)

// apiVersion is the version of netavark's plugin API that we speak.
const apiVersion = "1.0.0"

// buildVersion is set by make: -ldflags '-X main.buildVersion=...'.
var buildVersion = "unknown"

func main() {
	// Podman shows our stderr to its user: the log is for what that user should know.
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	signal.Ignore(unix.SIGPIPE) // so that a netavark that is gone is an error, after which nothing stays
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout))
}

// run executes one call. A failure is {"error": words} on stdout and exit status 1; Podman takes no other key.
func run(args []string, stdin io.Reader, stdout io.Writer) (status int) {
	answer, err := call(args, stdin, stdout)
	if err != nil { // whatever there is of an answer
		answer, status = map[string]string{"error": config.OneLine(err)}, 1
	}
	if answer == nil {
		return status
	}
	if err := json.NewEncoder(stdout).Encode(answer); err != nil {
		slog.Error("answer", "err", err)
		return 1
	}
	return status
}

// call is what run executes. It returns the answer, or nil where there is none or it has been written already.
func call(args []string, stdin io.Reader, stdout io.Writer) (answer any, err error) {
	if len(args) == 0 || args[0] == "info" {
		return map[string]string{"version": buildVersion, "api_version": apiVersion}, nil
	}
	verb, args := args[0], args[1:]
	if verb != "create" && verb != "setup" && verb != "teardown" {
		return nil, fmt.Errorf("unknown command %q: want create, setup, teardown or info", verb)
	}
	// To the end, before anything can fail: netavark reports an early exit as a broken pipe, in place of our words.
	input, err := io.ReadAll(stdin)
	if err != nil {
		return nil, fmt.Errorf("read stdin: %w", err)
	}
	switch {
	case verb == "create":
		return create(input)
	case len(args) != 1:
		return nil, fmt.Errorf("%s: %d arguments, want one, the path of a network namespace", verb, len(args))
	case verb == "setup":
		return nil, setup(input, args[0], stdout)
	}
	return nil, teardown(input)
}
