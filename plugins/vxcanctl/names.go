package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/vxcan/vxcan/pkg/bus"
	"github.com/vxcan/vxcan/pkg/plan"
)

// named is a looker that asks for the names that a front end is not told: Docker for those of its containers and networks,
// and the files of nerdctl for those of its containers.
type named struct{ looker }

func (n named) Status(ctx context.Context, hubs ...string) ([]bus.BusStatus, error) {
	all, err := n.looker.Status(ctx, hubs...)
	docker := sync.OnceValue(func() map[string]dockerEndpoint {
		if !dockerRuns() { // systemd would start it for the question
			return nil
		}
		return askDocker(ctx, dockerSocket)
	})
	nerdctl := sync.OnceValue(func() map[string]string { return nerdctlNames("/") })
	for _, s := range all {
		for i := range s.Endpoints {
			switch e := &s.Endpoints[i]; {
			case e.Runtime == "docker":
				e.Name, e.NetworkName = docker()[e.ContainerID].container, docker()[e.ContainerID].network
			case e.Runtime == "cni" && nerdctlID.MatchString(e.ContainerID) && e.Name == "":
				e.Name = nerdctl()[e.ContainerID]
			}
		}
	}
	return all, err
}

// nerdctlID is what nerdctl calls a container in CNI: its namespace in containerd, and its ID.
var nerdctlID = regexp.MustCompile(`^(.+)-([0-9a-f]{64})$`)

// nerdctlNames are the names of nerdctl's containers, by their IDs in CNI. nerdctl keeps each in a file that holds the ID, in
// a directory of the namespace: below names, as docs/dir.md of nerdctl says, or as 2.1 does it (pkg/namestore), not below that.
func nerdctlNames(root string) map[string]string {
	data, file := "/var/lib/nerdctl", nerdctlConf
	if home := os.Getenv("HOME"); isRootlessRuntime() {
		data, file = home+"/.local/share/nerdctl", home+"/.config/nerdctl/nerdctl.toml"
	}
	conf, _ := os.ReadFile(filepath.Join(root, file))
	data = stringsOf(string(conf), "data_root", data)[0]
	names := make(map[string]string)
	said, _ := filepath.Glob(filepath.Join(root, data, "*/names/*/*"))
	done, _ := filepath.Glob(filepath.Join(root, data, "*/*/*"))
	for _, file := range append(said, done...) {
		if id, err := os.ReadFile(file); err == nil {
			names[filepath.Base(filepath.Dir(file))+"-"+string(id)] = filepath.Base(file)
		}
	}
	return names
}

// runtimeOf is the runtime of an endpoint as people call it. Of CNI the front end is told no more than the names that a
// runtime has for a container, which differ. Without a record, what does not differ is "cni".
func runtimeOf(e bus.EndpointStatus) string {
	switch {
	case e.Runtime == "netavark":
		return "podman"
	case e.Runtime != "cni":
		return e.Runtime
	case nerdctlID.MatchString(e.ContainerID):
		return "nerdctl"
	case strings.Contains(e.Name, "/"): // namespace and name of a pod
		return "kubernetes"
	case e.Name != "": // Podman 4 tells a name without a namespace
		return "podman"
	}
	return e.Runtime
}

// containerOf is the name of a container, or the beginning of its ID.
func containerOf(e bus.EndpointStatus) string {
	if e.Name != "" {
		return plain(e.Name)
	}
	return plain(shortID(nerdctlID.ReplaceAllString(e.ContainerID, "$2")))
}

// networkOf is the name of a network, or the beginning of its ID.
func networkOf(e bus.EndpointStatus) string {
	switch {
	case e.NetworkName != "":
		return plain(e.NetworkName)
	case e.Runtime == "docker":
		return plain(shortID(e.Network))
	}
	return plain(e.Network)
}

// shortID is the beginning of an ID, as runtimes show it.
func shortID(id string) string { return id[:min(len(id), 12)] }

// interfaceOf is the name of the interface in the container, and whether it is down.
func interfaceOf(e bus.EndpointStatus) string {
	switch {
	case e.Interface == "":
		return "?"
	case !e.Up:
		return plain(e.Interface) + " down"
	}
	return plain(e.Interface)
}

// isNamed reports whether a word on the command line means the container of an endpoint: by its name, for a pod without
// the namespace, too, or by its ID or the beginning of it.
func isNamed(e bus.EndpointStatus, word string) bool {
	const shortest = 4 // digits of an ID
	_, pod, _ := strings.Cut(e.Name, "/")
	id := nerdctlID.ReplaceAllString(e.ContainerID, "$2")
	return word != "" && (word == e.Name || word == pod || len(word) >= shortest && strings.HasPrefix(id, word))
}

// wrongWords is what is wrong, with the names of the containers that it is about. Rules are counted, not listed: the
// command of the cure makes them all, and JSON has the list.
func wrongWords(s bus.BusStatus, d bus.Difference) string {
	const most = 3
	what := d.What
	if d.ByHeal {
		what, _, _ = strings.Cut(what, " (cangw ")
	}
	var names []string
	for _, e := range s.Endpoints {
		name := containerOf(e)
		switch {
		case !slices.Contains(d.HostIfs, e.HostIf):
		case strings.Contains(what, e.Attachment.String()):
			what = strings.ReplaceAll(what, e.Attachment.String(), name)
		case !slices.Contains(names, name):
			names = append(names, name)
		}
	}
	if more := len(names) - most; more > 0 {
		names = append(names[:most], fmt.Sprintf("and %d more", more))
	}
	if names != nil {
		what = strings.Join(names, ", ") + ": " + what
	}
	return plain(what)
}

// cureOf is the command that repairs a difference, to be pasted; or words, where there is none, or both: "words, then command".
func cureOf(s bus.BusStatus, d bus.Difference) string { return plain(toType(cure(s, d))) }

func cure(s bus.BusStatus, d bus.Difference) string {
	if d.ByHeal {
		return "sudo vxcanctl heal " + plan.Quote(s.Hub)
	}
	i := slices.IndexFunc(s.Endpoints, func(e bus.EndpointStatus) bool { return slices.Contains(d.HostIfs, e.HostIf) })
	if i >= 0 && d.Kind == plan.ContEndDown {
		return upCommand(s.Endpoints[i], d)
	}
	if i >= 0 && slices.Contains([]plan.Kind{plan.PolicyLost, plan.EndpointMTU, plan.ContEndGone}, d.Kind) {
		if command := restartCommand(s.Endpoints[i]); command != "" {
			return command
		}
	}
	return withSudo(d.Cure)
}

// withSudo makes commands in a cure those of a user.
func withSudo(cure string) string { return needsSudo.ReplaceAllString(cure, "${1}sudo $2 ") }

// needsSudo finds the commands in a cure, between words or alone.
var needsSudo = regexp.MustCompile(`(^|; |, |\(|then )(ip|tc|cangw|vxcanctl) `)

// upCommand sets up the interface of a container that is down, by the host's ip and capabilities: images often have no ip,
// and containers no CAP_NET_ADMIN.
func upCommand(e bus.EndpointStatus, d bus.Difference) string {
	inspect := runtimeCommand(e)
	switch {
	case runtimeOf(e) == "kubernetes":
		inspect = "sudo crictl inspectp -o go-template --template '{{.info.pid}}' " + plan.Quote(e.ContainerID)
	case inspect == "":
		return d.Cure
	default:
		inspect += " inspect -f '{{.State.Pid}}' " + e.Name
	}
	return "sudo nsenter -n -t $(" + inspect + ") ip link set " + plan.Quote(e.Interface) + " up"
}

// restartCommand attaches a container again; "" where its name is not known. Of a pod it is the Deployment or the like that
// starts another one.
func restartCommand(e bus.EndpointStatus) string {
	if runtimeOf(e) == "kubernetes" {
		namespace, pod, _ := strings.Cut(e.Name, "/")
		return "kubectl delete pod -n " + plan.Quote(namespace) + " " + plan.Quote(pod)
	}
	if command := runtimeCommand(e); command != "" {
		return command + " restart " + e.Name
	}
	return ""
}

// runtimeCommand is the beginning of a command of Docker, Podman or nerdctl for the container of an endpoint; "" where its
// name is not known, or no name for a shell.
func runtimeCommand(e bus.EndpointStatus) string {
	if e.Name == "" || plan.Quote(e.Name) != e.Name {
		return ""
	}
	switch runtime := runtimeOf(e); runtime {
	case "docker", "podman":
		return "sudo " + runtime
	case "nerdctl":
		if namespace := nerdctlID.FindStringSubmatch(e.ContainerID)[1]; namespace != "default" {
			return "sudo nerdctl -n " + plan.Quote(namespace)
		}
		return "sudo nerdctl"
	}
	return ""
}
