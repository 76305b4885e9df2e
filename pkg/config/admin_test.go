package config

import (
	"os"
	"path/filepath"
	"testing"
)

// A gateway is found through a file with faults, and at the default through one that cannot be read.
func TestAdminAddress(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"admin: { address: \"127.0.0.1:1234\" }\nnonsense: 7\n": "127.0.0.1:1234",
		"admin: { address: unix:a.sock }\n":                     "unix:" + filepath.Join(dir, "a.sock"),
		"listeners: []\n":                                       defaultAdmin,
		"admin:\n\t- x":                                         defaultAdmin,
	} {
		file := filepath.Join(dir, "mcpgw.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := AdminAddress(file); err != nil || got.String() != want {
			t.Errorf("%q: %v, %v, want %s", text, got, err, want)
		}
	}
	if got, err := AdminAddress(filepath.Join(dir, "absent.yaml")); err != nil || got.String() != defaultAdmin {
		t.Error(got, err)
	}
	if got, err := AdminAddress(dir); err != nil || got.String() != defaultAdmin {
		t.Error(got, err)
	}
}
