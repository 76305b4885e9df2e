package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadWithServersOfADesktopClient(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Mkdir(filepath.Join(dir, "policies"), 0o700); err != nil {
		t.Fatal(err)
	}
	base := write("mcpgw.yaml", "listeners:\n  - address: 127.0.0.1:8080\n    anonymous: {}\nservers:\n  - name: own\n    http: {url: http://127.0.0.1:1/mcp}\npolicy: {directory: policies}\n")
	c, err := LoadWith(base, write("desktop.json", `{"mcpServers":{"Remote":{"url":"http://127.0.0.1:2/mcp"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Proto.Servers) != 2 || c.Proto.Servers[0].Name != "own" || c.Proto.Servers[1].Name != "remote" || c.Proto.Servers[1].Era != "auto" {
		t.Errorf("servers: %v", c.Proto.Servers)
	}
	if !strings.Contains(strings.Join(c.Files, " "), "desktop.json") {
		t.Errorf("not watched: %v", c.Files)
	}
	for name, text := range map[string]string{"taken": `{"mcpServers":{"own":{"url":"http://127.0.0.1:2/mcp"}}}`, "not JSON": `{`, "empty": `{}`} {
		if _, err := LoadWith(base, write("bad.json", text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := LoadWith(base, filepath.Join(dir, "absent.json")); err == nil {
		t.Error("an absent file was accepted")
	}
}
