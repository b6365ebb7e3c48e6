package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vxcan/vxcan/pkg/config"
)

// ours are the programs of this repository that pages call.
var ours = map[string]string{"vxcanctl": "plugins/vxcanctl", "vxcan-docker": "plugins/docker", "vxcan-install": "plugins/install"}

// others are programs of others that pages call, of whose arguments only paths are checked.
var others = strings.Fields(`apk apt apt-get bitbake bitbake-layers bin/vm candump cangw cansend cat cd cnitool command cp ctr dmesg dnf
	echo env git go grep head ip journalctl loginctl man modprobe mv nerdctl opkg pkill printf rm slcand sysctl taskset tc tee udevadm vm systemctl
	install kubectl microk8s podman docker make nsenter opkg test uname`)

// line is one command of a page.
type line struct {
	page, text string
	words      []string
}

func (l line) String() string { return l.page + ": " + l.text }

// lines are the commands of all pages: in blocks without a language, and between backquotes what begins with a program.
func lines(t testing.TB) (all []line) {
	t.Helper()
	for _, p := range pages(t) {
		if p.path == "CHANGELOG.md" || strings.Contains(p.path, "/testdata/") {
			continue
		}
		for _, b := range p.blocks {
			if b.language != "" {
				continue
			}
			for _, text := range b.lines {
				all = append(all, split(p.path, text)...)
			}
		}
		for _, code := range p.code {
			first, rest, _ := strings.Cut(code, " ")
			if rest != "" && (first == "sudo" || first == "vxcan" || ours[first] != "" || slices.Contains(others, first)) {
				all = append(all, split(p.path, code)...)
			}
		}
	}
	return all
}

var (
	comment      = regexp.MustCompile(`\s# .*$`)
	substitution = regexp.MustCompile(`"?\$(?:\([^)]*\)|P\b)"?`) // a number, where we have one
	separator    = regexp.MustCompile(`\s*(?:&&|\|\||[|;])\s*`)
	variable     = regexp.MustCompile(`^\w+=`)
	quoted       = regexp.MustCompile(`"[^"]*"|'[^']*'`)
)

// split returns the commands of a line of shell, without sudo and variables. What is in quotes is one word.
func split(page, text string) (all []line) {
	text = substitution.ReplaceAllString(comment.ReplaceAllString(text, ""), "1")
	var texts []string
	bare := quoted.ReplaceAllStringFunc(text, func(s string) string {
		texts = append(texts, strings.Trim(s, `"'`))
		return fmt.Sprintf("\x00%d\x00", len(texts)-1)
	})
	for _, command := range separator.Split(bare, -1) {
		words := strings.Fields(command)
		for i, w := range words {
			for n, s := range texts {
				w = strings.ReplaceAll(w, fmt.Sprintf("\x00%d\x00", n), s)
			}
			words[i] = w
		}
		for len(words) > 0 && (words[0] == "sudo" || variable.MatchString(words[0])) {
			words = words[1:]
		}
		if len(words) > 0 {
			all = append(all, line{page, text, words})
		}
	}
	return all
}

// build builds programs of ours, or all.
func build(t *testing.T, names ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, source := range ours {
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "./"+source)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return dir
}

// TestCommands: each command is one that there is, with options that it knows.
func TestCommands(t *testing.T) {
	bin := build(t)
	all := lines(t)
	if len(all) < 100 {
		t.Fatalf("only %d commands in all pages", len(all))
	}
	networks := networksOf(t, all)
	for _, l := range all {
		var err error
		switch program := filepath.Base(l.words[0]); {
		case program == "vxcanctl":
			err = checkVxcanctl(filepath.Join(bin, program), l.words[1:])
		case program == "vxcan":
			if len(l.words) != 2 || l.words[1] != "--version" {
				err = fmt.Errorf("the CNI plugin knows --version alone")
			}
		case ours[program] != "":
			err = checkFlags(filepath.Join(bin, program), l.words[1:])
		case program == "make":
			err = checkMake(l.words[1:])
		case program == "docker" || program == "podman" || program == "nerdctl":
			err = checkRuntime(program, l.words[1:], networks)
		case program == "kubectl":
			err = checkKubectl(l.words[1:])
		case program == "systemctl" || program == "journalctl":
			err = checkUnits(l.words[1:])
		case program == "man":
			_, err = exec.Command(filepath.Join(bin, "vxcanctl"), strings.TrimPrefix(strings.TrimPrefix(l.words[1], "vxcanctl"), "-"), "--help").Output()
		case !slices.Contains(others, l.words[0]):
			err = fmt.Errorf("unknown program %s: check its lines here, or add it to the others", l.words[0])
		}
		if err != nil {
			t.Errorf("%s: %v", l, err)
		}
	}
}

// checkVxcanctl asks for the help of a command with its options, which fails with an unknown one.
func checkVxcanctl(path string, words []string) error {
	root, err := exec.Command(path, "--help").Output()
	if err != nil {
		return err
	}
	if len(words) > 0 && !strings.HasPrefix(words[0], "-") && !regexp.MustCompile(`(?m)^  `+regexp.QuoteMeta(words[0])+` `).Match(root) {
		return fmt.Errorf("vxcanctl has no command %s", words[0])
	}
	out, err := exec.Command(path, append(slices.Clone(words), "--help")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// TestCommandTable: the page of vxcanctl has a row for each command, with options that it knows.
func TestCommandTable(t *testing.T) {
	vxcanctl := filepath.Join(build(t, "vxcanctl"), "vxcanctl")
	help, err := exec.Command(vxcanctl, "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(root + "plugins/vxcanctl/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(help), "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	commands := strings.Split(list, "\n")
	if len(commands) < 6 {
		t.Fatalf("commands: %q", commands)
	}
	for _, command := range commands {
		name, _, _ := strings.Cut(strings.TrimSpace(command), " ")
		if name == "help" || name == "completion" {
			continue
		}
		rows := regexp.MustCompile("(?m)^\\| `("+name+"[^`]*)` \\|").FindAllStringSubmatch(string(content), -1)
		if len(rows) == 0 {
			t.Errorf("plugins/vxcanctl/README.md has no row for %s", name)
		}
		for _, row := range rows {
			if err := checkVxcanctl(vxcanctl, strings.Fields(row[1])); err != nil {
				t.Errorf("%s: %v", row[1], err)
			}
		}
	}
}

// checkFlags compares options with those that a program of ours prints.
func checkFlags(path string, words []string) error {
	help, _ := exec.Command(path, "--help").CombinedOutput()
	for _, w := range words {
		name, ok := strings.CutPrefix(w, "--")
		name, _, _ = strings.Cut(name, "=")
		if ok && !regexp.MustCompile(`(?m)^  -`+regexp.QuoteMeta(name)+`\b`).Match(help) {
			return fmt.Errorf("unknown option %s", w)
		}
	}
	return nil
}

// checkMake looks for targets in the Makefile.
func checkMake(words []string) error {
	makefile, err := os.ReadFile(root + "Makefile")
	if err != nil {
		return err
	}
	for _, w := range words {
		switch {
		case strings.HasPrefix(w, "BR2_EXTERNAL="):
			return nil // Buildroot's
		case strings.HasPrefix(w, "-"):
		case variable.MatchString(w):
			name, _, _ := strings.Cut(w, "=")
			if !regexp.MustCompile(`(?m)^` + name + ` *[?:]*= `).Match(makefile) {
				return fmt.Errorf("the Makefile has no variable %s", name)
			}
		case !regexp.MustCompile(`(?m)^(?:[\w./-]+ )*` + regexp.QuoteMeta(w) + `(?: [\w./-]+)*:|^TOOLS +=.* ` + regexp.QuoteMeta(w) + `( |$)`).Match(makefile):
			return fmt.Errorf("the Makefile has no target %s", w)
		}
	}
	return nil
}

// networksOf names the networks that any page or configuration makes, and those that runtimes have.
func networksOf(t *testing.T, all []line) (names []string) {
	t.Helper()
	names = []string{"bridge", "podman", "none", "host"}
	for _, l := range all {
		if len(l.words) > 4 && strings.Join(l.words[1:3], " ") == "network create" && slices.Contains(l.words, "vxcan") {
			names = append(names, l.words[len(l.words)-1])
		}
	}
	return names
}

// checkRuntime checks the lines that make a network of ours with the front end's own parser, and that what is run has an
// image that README builds, and networks that some page makes.
func checkRuntime(program string, words, networks []string) error {
	if len(words) < 2 {
		return nil
	}
	if words[0] == "network" && words[1] == "create" {
		return checkNetwork(program, words[2:])
	}
	if words[0] != "run" {
		return nil
	}
	for i, w := range words {
		if w == "--network" && i+1 < len(words) {
			name, _, _ := strings.Cut(words[i+1], ":")
			if !slices.Contains(networks, name) {
				return fmt.Errorf("no page makes the network %s", name)
			}
		}
	}
	last := words[len(words)-1]
	if !slices.Contains(words, "can-utils") && !strings.HasPrefix(last, "…") && !strings.Contains(strings.Join(words, " "), "debian:") {
		return fmt.Errorf("it runs another image than can-utils")
	}
	return nil
}

func checkNetwork(program string, words []string) error {
	front, n := config.Docker, config.NewNetwork()
	if program == "podman" {
		front = config.Netavark
	}
	text := strings.Join(words, " ")
	if !strings.Contains(text, "-d vxcan") || program == "nerdctl" {
		return nil // what does not work, and the page says so
	}
	if strings.Contains(text, "--scope") || len(words) == 2 {
		return nil
	}
	if program == "docker" && !strings.Contains(text, "--ipam-driver null") {
		return fmt.Errorf("it lacks --ipam-driver null")
	}
	for i, w := range words {
		if w != "-o" {
			continue
		}
		key, value, _ := strings.Cut(words[i+1], "=")
		if program == "docker" && strings.HasPrefix(key, "vxcan.") {
			continue
		}
		if known, err := n.Set(front, key, value); err != nil || !known {
			return fmt.Errorf("option %s: known %v, %v", words[i+1], known, err)
		}
	}
	return n.Check()
}

func checkKubectl(words []string) error {
	// What make image writes is a copy.
	file := func(path string) string {
		return root + strings.Replace(path, "bin/kubernetes/", "conflist/kubernetes/", 1)
	}
	for i, w := range words {
		switch {
		case w == "-k":
			if _, err := os.Stat(file(words[i+1]) + "/kustomization.yaml"); err != nil {
				return err
			}
		case w == "-f" && words[0] == "apply":
			if _, err := os.Stat(file(words[i+1])); err != nil {
				return err
			}
		case strings.Contains(w, "/vxcan") && w != "daemonset/vxcan" && w != "ds/vxcan":
			return fmt.Errorf("unknown %s", w)
		}
	}
	return nil
}

// checkUnits looks for units of ours, and of the files to copy.
func checkUnits(words []string) error {
	for _, w := range words {
		if !strings.HasPrefix(w, "vxcan") && !strings.HasPrefix(w, "engine") {
			continue
		}
		name := strings.TrimRight(w, "*")
		for _, pattern := range []string{"plugins/*/" + name, "plugins/*/" + name + ".service", "conflist/*/" + name + ".service", "conflist/*/" + name + ".container"} {
			if found, _ := filepath.Glob(root + pattern); len(found) > 0 {
				name = ""
			}
		}
		if name != "" {
			return fmt.Errorf("unknown unit %s", w)
		}
	}
	return nil
}
