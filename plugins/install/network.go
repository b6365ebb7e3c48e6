package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

// network is a file of the configuration directory.
type network struct {
	path       string
	file       string // without symbolic links: this is replaced, so that a link stays a link
	isLink     bool
	content    []byte
	perm       fs.FileMode
	name       string
	cniVersion string
	isList     bool // else the configuration of one plugin, in a *.conf or *.json
}

const (
	listSuffix = ".conflist"
	maxSize    = 2 << 20 // that go-cni reads
	// settles is how long a file may be half written before it counts as broken.
	settles = 3 * time.Second
)

var (
	errNoNetwork = errors.New("no pod network yet")
	errUnsettled = errors.New("is being written")
	errLink      = errors.New("is a symbolic link that leads to no file")
)

// podNetwork is the first valid file of the directory in the order of names: with CRI-O that is the pod network, with
// containerd too, unless a file before it is broken, for then the node has none (libcni ConfFiles and go-cni
// loadFromConfDir, of all *.conf, *.conflist and *.json). The broken ones are in the second result. A symbolic link that
// leads to no file is an error, and no later file is used: outside of this container the link may lead to the pod network.
func podNetwork(dir string) (n *network, broken, err error) {
	files, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, nil, err
	}
	for _, file := range files {
		if file.IsDir() || !slices.Contains([]string{".conf", listSuffix, ".json"}, filepath.Ext(file.Name())) {
			continue
		}
		n, age, err := readNetwork(filepath.Join(dir, file.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case err != nil && age < settles:
			return nil, broken, fmt.Errorf("%s/%s %w: %w", dir, file.Name(), errUnsettled, err)
		case errors.Is(err, errLink):
			return nil, broken, err
		case err != nil:
			broken = errors.Join(broken, fmt.Errorf("%s/%s is broken; repair or remove it, for containerd uses no network behind it: %w", dir, file.Name(), err))
		default:
			return n, broken, nil
		}
	}
	return nil, broken, fmt.Errorf("%w in %s: waiting for the *.conflist of flannel, Calico, Cilium …", errNoNetwork, dir)
}

// readNetwork reads a file as libcni does; age is how long ago it, or a link that leads to no file, was written.
func readNetwork(path string) (n *network, age time.Duration, err error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, settles, err
	}
	n = &network{path: path, isLink: info.Mode().Type() == fs.ModeSymlink}
	age = time.Since(info.ModTime()).Abs()
	n.file, err = filepath.EvalSymlinks(path)
	if err == nil {
		n.content, info, err = readFile(n.file)
	}
	if n.isLink && (n.file == "" || errors.Is(err, fs.ErrNotExist)) {
		return nil, age, linkError(path, err)
	}
	if err != nil {
		return nil, settles, err
	}
	n.perm = info.Mode().Perm()
	age = time.Since(info.ModTime()).Abs()
	if n.isList = strings.HasSuffix(path, listSuffix); n.isList {
		n.name, n.cniVersion, err = parseList(n.content)
	} else {
		var conf types.PluginConf
		conf, err = parsePlugin(n.content)
		n.name, n.cniVersion = conf.Name, conf.CNIVersion
	}
	if err != nil {
		return nil, age, err
	}
	return n, age, nil
}

// linkError says what to do about a symbolic link that leads to no file. It does not wrap the cause, because
// fs.ErrNotExist means that there is no link.
func linkError(path string, cause error) error {
	target, err := os.Readlink(path)
	if err != nil {
		return err
	}
	return fmt.Errorf("%s %w, to %s (%v): create the target or remove the link; "+
		"if the target exists on the node, mount its directory into this container at the same path", path, errLink, target, cause)
}

// parsePlugin is libcni's ConfFromBytes; the package libcni would bring tracing along.
func parsePlugin(content []byte) (conf types.PluginConf, err error) {
	if err := json.Unmarshal(content, &conf); err != nil {
		return conf, err
	}
	if conf.Type == "" {
		return conf, errors.New("no key type")
	}
	return conf, nil
}

// parseList is libcni's ConfListFromBytes. Not taken are lists without plugins, which libcni 1.3 fills from files in a
// directory, and containerd before 2.1 refuses.
func parseList(content []byte) (name, cniVersion string, err error) {
	var keys map[string]json.RawMessage // unlike the fields of a struct, in just this case of letters
	if err := json.Unmarshal(content, &keys); err != nil {
		return "", "", err
	}
	var versions []string
	var plugins []json.RawMessage
	for _, key := range []struct {
		name string
		v    any
	}{{"name", &name}, {"cniVersion", &cniVersion}, {"cniVersions", &versions}, {"plugins", &plugins}} {
		value, ok := keys[key.name]
		if !ok && key.name == "name" {
			return "", "", errors.New("no key name")
		}
		if ok && string(value) == "null" {
			return "", "", fmt.Errorf("key %s: null", key.name)
		}
		if ok {
			if err := json.Unmarshal(value, key.v); err != nil {
				return "", "", fmt.Errorf("key %s: %w", key.name, err)
			}
		}
	}
	for _, key := range []string{"disableCheck", "disableGC", "loadOnlyInlinedPlugins"} {
		switch value := strings.ToLower(string(keys[key])); value {
		case "", "true", "false", `"true"`, `"false"`:
		default:
			return "", "", fmt.Errorf("key %s: %s, want true or false", key, value)
		}
	}
	if len(plugins) == 0 {
		return "", "", errors.New("no plugins")
	}
	for i, plugin := range plugins {
		if _, err := parsePlugin(plugin); err != nil {
			return "", "", fmt.Errorf("plugin %d: %w", i, err)
		}
	}
	for _, v := range versions { // the greatest that libcni knows
		unknown, err := version.GreaterThan(v, version.Current())
		if err != nil {
			return "", "", fmt.Errorf("key cniVersions: %w", err)
		}
		if greater, err := version.GreaterThan(v, cniVersion); !unknown && (err != nil || greater) {
			cniVersion = v
		}
	}
	return name, cniVersion, nil
}

// readFile reads a regular file; another kind of file, or a huge one, is refused.
func readFile(path string) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would block
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSize {
		return nil, nil, fmt.Errorf("%s: %w: not a regular file of at most %d bytes", path, fs.ErrInvalid, maxSize)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxSize))
	return content, info, err
}

// asList is the network as a configuration list, and the path for it.
func (n *network) asList() (path string, list []byte) {
	if n.isList {
		return n.path, n.content
	}
	return strings.TrimSuffix(n.path, filepath.Ext(n.path)) + listSuffix, convert(n.content, n.name, n.cniVersion)
}
