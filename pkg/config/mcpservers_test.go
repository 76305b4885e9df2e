package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestImport(t *testing.T) {
	const input = `{
	"mcpServers": {
		"Zeta Server": {"command": "npx", "args": ["-y", "@scope/server", "${HOME}/x"], "env": {"B_TOKEN": "abc", "A": "${env:A_VAR}"}, "autoApprove": []},
		"github": {"type": "http", "url": "https://api.example.com/mcp", "headers": {"Authorization": "Bearer ${GH_TOKEN}", "X-Version": "2"}},
		"old": {"type": "sse", "url": "https://old.example.com/sse"},
		"off": {"command": "x", "disabled": true}
	},
	"inputs": []
}`
	c, warnings, err := ImportMCPServers([]byte(input))
	if err != nil {
		t.Fatal(err)
	}
	text, err := Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	const want = `listeners:
  - address: 127.0.0.1:8080
    anonymous:
      roles:
        - local
servers:
  - name: zeta-server
    stdio:
      command: npx
      args:
        - -y
        - '@scope/server'
        - ${HOME}/x
      env:
        A:
          env: A_VAR
        B_TOKEN:
          value: abc
  - name: github
    http:
      url: https://api.example.com/mcp
      headers:
        x-version:
          value: "2"
      credential:
        header: authorization
        prefix: 'Bearer '
        from:
          env: GH_TOKEN
endpoints:
  - name: mcp
    path: /mcp
    per_server: true
policy:
  directory: policies
`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
	wantWarnings := []string{
		`"Zeta Server": autoApprove is left out`,
		`"Zeta Server": is called zeta-server`,
		`"Zeta Server": B_TOKEN looks like a secret; move it to a file or the environment, and write ` + "`file` or `env` for `value`",
		`"Zeta Server": ${HOME}/x is taken as it stands; nothing is put in for ${…}`,
		`"old": speaks the old HTTP+SSE transport, and is left out; use its streamable HTTP URL`,
		`"off": is disabled, and left out`,
	}
	if diff := cmp.Diff(wantWarnings, warnings); diff != "" {
		t.Error(diff)
	}
}

// TestImportLoads says that what is printed is a configuration that loads.
func TestImportLoads(t *testing.T) {
	c, _, err := ImportMCPServers([]byte(`{"mcpServers": {"a": {"command": "sh", "args": ["-c", "cat"]}, "b": {"url": "http://127.0.0.1:1/mcp"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	text, err := Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := Parse("testdata/imported.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded.Proto.Servers) != 2 || loaded.Proto.Servers[0].Name != "a" {
		t.Error(loaded.Proto.Servers)
	}
}

func TestImportRefuses(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{``, "is not a JSON object"},
		{`[]`, "is not a JSON object"},
		{`{"mcpServers": {}} x`, "is not a JSON object"},
		{`{"other": {}}`, "has no member mcpServers"},
		{`{"mcpServers": []}`, "is not an object of servers"},
		{`{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}`, "duplicate"},
		{`{"mcpServers": {"a b": {"command": "x"}, "A_B": {"command": "y"}}}`, `"A_B": becomes a-b, as "a b" does; rename one`},
		{`{"mcpServers": {"a": {"command": "x", "url": "y"}}}`, "has both command and url"},
		{`{"mcpServers": {"a": {}}}`, "has neither command nor url"},
		{`{"mcpServers": {"a": {"command": 1}}}`, `"a": cannot be read`},
		{`{"mcpServers": {"a": {}, "b": {"command": []}}}`, `"b": cannot be read`},
		{strings.Repeat(" ", MaxBytes+1), "is larger than"},
	} {
		if _, _, err := ImportMCPServers([]byte(test.in)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.60s: %v, want %s", test.in, err, test.want)
		}
	}
}

func TestServerName(t *testing.T) {
	for in, want := range map[string]string{
		"time":                    "time",
		"My Server":               "my-server",
		"io.github/foo_bar":       "io-github-foo-bar",
		"--x--":                   "x",
		"日本":                      "server",
		strings.Repeat("a", 40):   strings.Repeat("a", 32),
		strings.Repeat("ab-", 20): strings.TrimSuffix(strings.Repeat("ab-", 11)[:32], "-"),
	} {
		if got := serverName(in); got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
	}
}
