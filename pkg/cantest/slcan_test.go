package cantest

import (
	"slices"
	"strings"
	"testing"
)

func TestCommands(t *testing.T) {
	for told, want := range map[string]string{
		"": "", "C": "C", "C S6 O": "C S6 O", "C S6 O C": "C S6 O C", "C S6 O C C S6 O": "C S6 O C C S6 O",
		"C C S6 O": "C S6 O", "C S6 C S6 O": "C S6 O", "C S6 O C S6 O": "C S6 O", "C S6 C C S6 O C": "C S6 O C",
	} {
		c := Controller{commands: strings.Fields(told)}
		if got := c.Commands(); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%q: %q, want %q", told, got, want)
		}
	}
}
