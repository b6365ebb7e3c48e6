package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestReadmeKeys: the tables of keys, of controllers and of all else, are those that the front ends parse by.
func TestReadmeKeys(t *testing.T) {
	where := map[FrontEnd]string{everywhere: "everywhere", everywhere &^ Docker: "all but Docker", CNI: "CNI", CNI | Netavark: "CNI, Podman"}
	for file, controllers := range map[string]bool{"../../README.md": false, "../../conflist/controller/README.md": true} {
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		table := "| --- | --- | --- | --- |\n"
		for _, k := range Keys {
			if (k.Of == OfController) == controllers {
				table += fmt.Sprintf("| `%s` | %s | %s | %s |\n", k.Name, k.Default, where[k.In], k.Meaning)
			}
		}
		if !strings.Contains(string(page), table+"\n") {
			t.Errorf("%s lacks this table:\n%s", file, table)
		}
	}
}

// TestOddValues: a value that would be taken for another one is refused.
func TestOddValues(t *testing.T) {
	for key, values := range map[string][]string{
		"sample-point": {"NaN", "0.0004", "1e-9", "0.9996"}, // 0 would leave it to the kernel
		"restart-ms":   {"4294967295", "2147483648"},
		"txqueuelen":   {"4294967295"},
		"rate":         {"0", "-1", "1000001", "1e3"},
		"send":         {"", "12345", "0x123", "100-", "1FF-100", "123,,124"},
	} {
		for _, v := range values {
			var n Network
			if _, err := n.Set(Docker, key, v); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s=%s: %v, %+v, queue %d", key, v, err, n.Hub, n.Hub.TxQueue)
			}
		}
	}
}
