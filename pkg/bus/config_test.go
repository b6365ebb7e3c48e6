package bus

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestReadmeKeys: the table of keys in README.md is the one that the front ends parse by.
func TestReadmeKeys(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	where := map[FrontEnd]string{everywhere: "everywhere", CNI | Netavark: "CNI, Podman 5", CNI: "CNI"}
	var rows []string
	for _, k := range Keys {
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |\n", k.Name, k.Default, where[k.In], k.Meaning))
	}
	if table := strings.Join(rows, ""); !strings.Contains(string(readme), table) {
		t.Errorf("README.md lacks this table:\n%s", table)
	}
}
