package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// installer puts plugin and entry in place. A step of it may end anywhere: the next one makes it right.
type installer struct {
	options
	valid    json.RawMessage // the entry, as it was when it was last right
	versions []string        // of CNI, that the plugin speaks
	cleaned  []string        // directories where nothing is left of a run that was killed
	chained  string          // the file with our entry, without symbolic links, if this process put it there
	linked   bool            // the pod network is a symbolic link
	compared fs.FileInfo     // of the installed plugin, when it was the same as ours
	nodes    *nodes
}

// install makes one step: the plugin first, because from the entry on every pod needs it.
func (in *installer) install(ctx context.Context) (wrote bool, err error) {
	unlock, err := lock(in.confDir)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := errors.Join(in.clean(in.confDir), in.clean(in.binDir)); err != nil {
		return false, err
	}
	if err := in.placePlugin(ctx); err != nil {
		return false, err
	}
	errEntry := in.reloadEntry()
	n, broken, err := podNetwork(in.confDir)
	in.linked = errors.Is(err, errLink) || err == nil && n.isLink
	if err == nil && n.isLink {
		err = in.clean(filepath.Dir(n.file))
	}
	switch {
	case err == nil:
		wrote, err = in.placeEntry(n)
	case isNone(in.valid) && errors.Is(err, errNoNetwork):
		err = in.moveEntry("")
	}
	return wrote, errors.Join(err, broken, errEntry)
}

// clean removes the temporary file that a run that was killed left in a directory, once.
func (in *installer) clean(dir string) error {
	if slices.Contains(in.cleaned, dir) {
		return nil
	}
	if err := removeIfThere(filepath.Join(dir, tempName)); err != nil {
		return err
	}
	in.cleaned = append(in.cleaned, dir)
	return nil
}

func (in *installer) placePlugin(ctx context.Context) error {
	to := filepath.Join(in.binDir, pluginType)
	info, err := os.Lstat(to)
	if err == nil && in.compared != nil && os.SameFile(info, in.compared) && info.Mode() == in.compared.Mode() &&
		info.Size() == in.compared.Size() && info.ModTime().Equal(in.compared.ModTime()) {
		return nil
	}
	copied, err := installPlugin(in.plugin, to)
	if err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	if copied {
		slog.Info("plugin installed", "file", to)
	}
	if in.versions == nil {
		// Of ours: the node may forbid us to execute files of its own.
		if in.versions, err = versionsOf(ctx, in.plugin); err != nil {
			return fmt.Errorf("ask the plugin %s for its versions of CNI (is it for another processor?): %w", in.plugin, err)
		}
	}
	in.compared, err = os.Lstat(to)
	return err
}

// versionsOf asks a plugin which versions of CNI it speaks.
func versionsOf(ctx context.Context, plugin string) ([]string, error) {
	cmd := exec.CommandContext(ctx, plugin)
	cmd.Env = []string{"CNI_COMMAND=VERSION"}
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0"}`)
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var answer struct {
		SupportedVersions []string `json:"supportedVersions"`
	}
	err = json.Unmarshal(out, &answer)
	return answer.SupportedVersions, err
}

// reloadEntry reads the entry again, which may be in a ConfigMap. While it is wrong, the last right one goes on.
func (in *installer) reloadEntry() error {
	entry, err := readEntry(in.entryOfNode())
	if err != nil {
		return fmt.Errorf("%w: the entry from before is used", err)
	}
	in.valid = entry
	return nil
}

// placeEntry chains the entry into the pod network, and takes it out of what was the pod network before.
func (in *installer) placeEntry(n *network) (wrote bool, err error) {
	none := isNone(in.valid)
	if none && !n.isList {
		return false, in.moveEntry("")
	}
	if !none && !slices.Contains(in.versions, n.cniVersion) {
		return false, fmt.Errorf("%s: cniVersion %q: vxcan speaks %s, and with another no pod would start; change it where the file comes from",
			n.path, n.cniVersion, strings.Join(in.versions, ", "))
	}
	path, list := n.asList()
	entry, errNodes := in.expanded(list)
	if errNodes != nil {
		errNodes = fmt.Errorf("the nodes of the cluster: %w: the list from before is used", errNodes)
	}
	after, err := chain(list, entry)
	if err != nil {
		return false, fmt.Errorf("%s: %w", n.path, errors.Join(err, errNodes))
	}
	file := n.file
	switch {
	case !n.isList:
		file, err = putInPlaceOf(n, path, after)
	case !bytes.Equal(list, after):
		err = replaceFile(file, n.perm, list, after)
	}
	if err != nil {
		return false, err
	}
	if wrote = !bytes.Equal(n.content, after); wrote {
		what := "chained into the pod network"
		if none {
			what = takenOut
		}
		slog.Info(what, "file", path, "network", n.name)
	}
	return wrote, errors.Join(in.moveEntry(file), errNodes)
}

// moveEntry takes our entry out of the file that had it before, unless that is the one that has it now; "" is none.
func (in *installer) moveEntry(file string) error {
	if in.chained != "" && in.chained != file {
		if err := takeOut(in.chained); err != nil {
			return err // and again at the next step
		}
	}
	in.chained, in.nodes.wanted = file, in.nodes.wanted && file != ""
	return nil
}

// putInPlaceOf puts a list in the place of the configuration of one plugin. While both are there, the runtime takes
// *.conf and not *.conflist, or *.conflist and not *.json; there is always one. The result is the file that was written.
func putInPlaceOf(n *network, path string, list []byte) (file string, err error) {
	if n.isLink {
		// A list in the place of the link would hide every later version of its target.
		return "", fmt.Errorf("%s is a symbolic link to %s, the configuration of one plugin: let it lead to a *%s, or put the file in its place",
			n.path, n.file, listSuffix)
	}
	file = filepath.Join(filepath.Dir(n.file), filepath.Base(path))
	there, _, err := readNetwork(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, errLink):
		return "", err
	case err != nil || there.name != n.name:
		return "", fmt.Errorf("%s is the pod network and has to become %s, which is another: remove one", n.path, path)
	default:
		file = there.file
	}
	if err := writeFile(file, n.perm, bytes.NewReader(list)); err != nil {
		return "", err
	}
	temp := filepath.Join(filepath.Dir(n.path), tempName)
	if err := os.Rename(n.path, temp); err != nil {
		return "", err
	}
	got, err := contentOrLink(temp)
	if err == nil && !bytes.Equal(got, n.content) { // a newer one
		if err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, n.path, unix.RENAME_NOREPLACE); err == nil || errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%s %w", n.path, errChanged)
		}
	}
	return file, errors.Join(err, removeIfThere(temp), syncDir(filepath.Dir(path)))
}

const takenOut = "taken out of the pod network"

// takeOut takes our entry out of a list, if the file exists. The file is not a symbolic link. Its name may have another
// suffix than *.conflist, because a link to it had that one.
func takeOut(file string) error {
	content, info, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var list []byte
	if err == nil {
		list, err = chain(content, json.RawMessage(noEntry))
	}
	if err != nil {
		return fmt.Errorf("take vxcan out of %s: %w", file, err)
	}
	if bytes.Equal(list, content) {
		return nil
	}
	if err := replaceFile(file, info.Mode().Perm(), content, list); err != nil {
		return err
	}
	slog.Info(takenOut, "file", file)
	return nil
}

// remove takes our entry out of the pod network. The plugin stays, for the pods that have it.
func (in *installer) remove() error {
	unlock, err := lock(in.confDir)
	if err != nil {
		return err
	}
	defer unlock()
	n, _, err := podNetwork(in.confDir)
	if errors.Is(err, errNoNetwork) {
		err = nil
	}
	file := in.chained
	if n != nil && n.isList && n.file != file {
		err = takeOut(n.file)
	}
	if file != "" {
		err = errors.Join(err, takeOut(file))
	}
	return err
}

// inPlace tells what is not in place.
func (in *installer) inPlace() error {
	to := filepath.Join(in.binDir, pluginType)
	same, err := samePlugin(in.plugin, to)
	if err != nil {
		return err
	}
	if !same {
		return fmt.Errorf("%s is not the plugin %s", to, in.plugin)
	}
	n, broken, err := podNetwork(in.confDir)
	if isNone(in.valid) && errors.Is(err, errNoNetwork) {
		return broken
	}
	if err = errors.Join(err, broken); err != nil {
		return err
	}
	_, list := n.asList()
	entry, err := in.expanded(list)
	if err != nil {
		return err
	}
	chained, err := chain(list, entry)
	switch {
	case err != nil || bytes.Equal(list, chained):
	case isNone(entry):
		err = errors.New("an entry of vxcan is in the pod network")
	default:
		err = errors.New("the entry of vxcan is not in the pod network")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", n.path, err)
	}
	return nil
}
