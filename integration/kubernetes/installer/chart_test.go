package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	text "text/template"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/yaml"
)

// template is helm template: the objects of the chart by their kinds. Helm itself takes minutes to build, so that by itself
// this reads the chart by the few functions of Helm that are in it. VXCAN_HELM=helm has Helm do the same.
func template(t *testing.T, namespace, values string) (map[string][]byte, error) {
	t.Helper()
	render := renderChart
	if os.Getenv("VXCAN_HELM") != "" {
		render = helmTemplate
	}
	out, err := render(t, namespace, values)
	if err != nil {
		return nil, err
	}
	objects, err := kio.FromBytes([]byte(out))
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	kinds := map[string][]byte{}
	for _, object := range objects {
		kinds[object.GetKind()] = []byte(object.MustString())
	}
	return kinds, nil
}

func helmTemplate(t *testing.T, namespace, values string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	put(t, file, values)
	helm := append(strings.Fields(os.Getenv("VXCAN_HELM")), "template", "vxcan", manifests+"/chart", "--namespace", namespace, "--values", file)
	cmd, cancel := limited(helm[0], helm[1:]...)
	defer cancel()
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, words.Bytes())
	}
	return string(out), err
}

func renderChart(t *testing.T, namespace, values string) (string, error) {
	t.Helper()
	var chart struct{ AppVersion string }
	var all, set map[string]any
	for content, v := range map[string]any{
		string(readFile(t, manifests+"/chart/Chart.yaml")): &chart, string(readFile(t, manifests+"/chart/values.yaml")): &all, values: &set,
	} {
		if err := yaml.Unmarshal([]byte(content), v); err != nil {
			t.Fatal(err)
		}
	}
	overlayValues(all, set)
	templates := text.New("")
	indent := func(n int, s string) string { return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", n)) }
	templates.Funcs(text.FuncMap{
		"include": func(name string, data any) (string, error) {
			var b strings.Builder
			err := templates.ExecuteTemplate(&b, name, data)
			return b.String(), err
		},
		"toYaml": func(v any) (string, error) {
			content, err := yaml.Marshal(v)
			return strings.TrimSpace(string(content)), err
		},
		"toPrettyJson": func(v any) (string, error) {
			content, err := json.MarshalIndent(v, "", "  ")
			return string(content), err
		},
		"nindent": func(n int, s string) string { return indent(n, "\n"+s) },
		"quote":   func(v any) string { return strconv.Quote(fmt.Sprint(v)) },
		"default": func(otherwise, v any) any {
			if isTrue, _ := text.IsTrue(v); isTrue {
				return v
			}
			return otherwise
		},
		"fail": func(words string) (string, error) { return "", errors.New(words) },
		"get":  func(m map[string]any, name string) any { return m[name] },
		"hasKey": func(m map[string]any, name string) bool {
			_, ok := m[name]
			return ok
		},
		"dict": func(pairs ...any) map[string]any {
			m := map[string]any{}
			for i := 0; i < len(pairs); i += 2 {
				m[pairs[i].(string)] = pairs[i+1]
			}
			return m
		},
	})
	files, err := filepath.Glob(manifests + "/chart/templates/*")
	if err != nil {
		t.Fatal(err)
	}
	data := map[string]any{"Values": all, "Chart": chart, "Release": map[string]any{"Namespace": namespace}}
	if _, err := templates.ParseFiles(files...); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, file := range files {
		if filepath.Ext(file) != ".yaml" {
			continue
		}
		fmt.Fprintln(&b, "---")
		if err := templates.ExecuteTemplate(&b, filepath.Base(file), data); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// overlayValues puts values over those of the chart, map by map, as Helm does.
func overlayValues(all, set map[string]any) {
	for name, value := range set {
		if below, ok := all[name].(map[string]any); ok {
			if above, ok := value.(map[string]any); ok {
				overlayValues(below, above)
				continue
			}
		}
		all[name] = value
	}
}

// TestChart: the chart and the overlays are the same objects.
func TestChart(t *testing.T) {
	for _, distribution := range []string{"kubeadm", "k3s", "microk8s"} {
		for _, with := range [][]string{nil, {"vxcanctl"}, {"labels"}, components} {
			t.Run(fmt.Sprint(distribution, with), func(t *testing.T) {
				values := "distribution: " + distribution + "\n"
				for _, name := range with {
					values += name + ": {enabled: true}\n"
				}
				got, err := template(t, "kube-system", values)
				if err != nil {
					t.Fatal(err)
				}
				want := build(t, distribution, with...)
				if g, w := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)); !slices.Equal(g, w) {
					t.Errorf("kinds %v, want %v", g, w)
				}
				for kind := range want {
					if g, w := asText(t, got[kind]), asText(t, want[kind]); g != w {
						t.Errorf("%s of the chart:\n%s\nof the overlay:\n%s", kind, g, w)
					}
				}
			})
		}
	}
}

// asText is an object in an order of its own; the entry of vxcan is in JSON, whose form is not compared.
func asText(t *testing.T, content []byte) string {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal(content, &object); err != nil {
		t.Fatal(err)
	}
	if data, ok := object["data"].(map[string]any); ok {
		for name, text := range data {
			var entry any
			if err := json.Unmarshal([]byte(text.(string)), &entry); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			data[name] = entry
		}
	}
	text, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestChartValues: the other values.
func TestChartValues(t *testing.T) {
	const values = `
image: {repository: registry.example.com/vxcan-install, tag: 1.2.3, pullPolicy: Always}
imagePullSecrets: [{name: registry}]
entryOfNode: {node2: {type: vxcan, hub: can-engine, physical: true}}
vxcanctl: {enabled: true, port: 1234}
labels: {enabled: true}
removeOnExit: true
nodeSelector: {can: "true"}
seLinuxOptions: {type: spc_t}
`
	kinds, err := template(t, "can", values)
	if err != nil {
		t.Fatal(err)
	}
	for kind, words := range map[string][]string{
		"ConfigMap":                 {"namespace: can", "node2.json: |", `"hub": "can-engine"`},
		"DaemonSet":                 {"namespace: can", "image: registry.example.com/vxcan-install:1.2.3", "--listen=$(VXCAN_NODE_IP):1234", `prometheus.io/port: "1234"`, "can: \"true\"", "type: spc_t", "containerPort: 1234"},
		"ClusterRoleBinding":        {"namespace: can"},
		"ServiceAccount":            {"namespace: can", "name: vxcan"},
		"ValidatingAdmissionPolicy": {`username.endsWith(":vxcan")`},
	} {
		for _, word := range words {
			if !strings.Contains(string(kinds[kind]), word) {
				t.Errorf("%s without %q:\n%s", kind, word, kinds[kind])
			}
		}
	}
	if got := strings.Count(string(kinds["DaemonSet"]), `value: "true"`); got != 2 {
		t.Errorf("remove on exit in %d containers, want 2", got)
	}
	if got := strings.Count(string(kinds["DaemonSet"]), "imagePullPolicy: Always"); got != 3 {
		t.Errorf("pulled always in %d containers, want 3", got)
	}
	var set apps.DaemonSet
	strict(t, kinds["DaemonSet"], &set)
	if secrets := set.Spec.Template.Spec.ImagePullSecrets; len(secrets) != 1 || secrets[0].Name != "registry" {
		t.Errorf("secrets %v", secrets)
	}
	if _, err := template(t, "can", "distribution: k0s"); err == nil || !strings.Contains(err.Error(), "want kubeadm, k3s or microk8s") {
		t.Error(err)
	}
}

// TestChartEntry: what the comments of values.yaml say of entries. They are merged with that of the chart, or null; those of
// nodes are whole; and the installer takes each.
func TestChartEntry(t *testing.T) {
	nodes := "entryOfNode:\n"
	for _, example := range regexp.MustCompile(`(?m)^#( {3}node\d: .*\n)`).FindAllStringSubmatch(string(readFile(t, manifests+"/chart/values.yaml")), -1) {
		nodes += example[1]
	}
	const annotations = `"capabilities":{"io.kubernetes.cri.pod-annotations":true}`
	for values, want := range map[string]map[string]string{
		`entry: {hub: vcan7, send: ["123"]}`: {"entry.json": `{` + annotations + `,"hub":"vcan7","send":["123"],"type":"vxcan"}`},
		"entry: null\n" + nodes: {"entry.json": "{}", "node3.json": "{}",
			"node2.json": `{"bitrate":500000,` + annotations + `,"hub":"can-engine","physical":true,"type":"vxcan"}`},
	} {
		kinds, err := template(t, "kube-system", values)
		if err != nil {
			t.Fatal(err)
		}
		var config core.ConfigMap
		strict(t, kinds["ConfigMap"], &config)
		if len(config.Data) != len(want) {
			t.Errorf("%s: %v", values, config.Data)
		}
		for key, text := range config.Data {
			n := newNode(t, "flannel")
			put(t, n.entry, text)
			out, err := n.run(t, "--once")
			said, errCheck := n.run(t, "--check")
			if err = errors.Join(err, errCheck); err != nil || strings.TrimSpace(said) != want[key] {
				t.Errorf("%s: %v: %s\ngot  %s\nwant %s", key, err, out, said, want[key])
			}
		}
	}
}

// TestChartVersion: chart and image are of the version that CHANGELOG.md has on top.
func TestChartVersion(t *testing.T) {
	var chart struct{ Version, AppVersion string }
	if err := yaml.Unmarshal(readFile(t, manifests+"/chart/Chart.yaml"), &chart); err != nil {
		t.Fatal(err)
	}
	if want := release(t); !reflect.DeepEqual([]string{chart.Version, chart.AppVersion}, []string{want, want}) {
		t.Errorf("%+v, want %s", chart, want)
	}
}
