package harness

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Parts are the paths of the real programs below .tools/, all absolute and all known to exist.
type Parts struct {
	Root string // the repository

	Envoy            string // the Envoy binary itself, so that signals reach it
	Python           string // directory for PYTHONPATH: mcp_server_time, mcp_server_git
	EverythingServer string // the go-sdk's conformance server
	Node             string // Node 24 or later
	NodeModules      string // real clients, the conformance suite, server-everything
	Conformance      string // the suite's script, run with Node
	Inspector        string // the MCP inspector's script, run with Node
	ServerEverything string // the reference server's script, run with Node
	Repository       string // a git repository of 60 commits; Repository(t) gives a copy to write to
}

// Tools returns the real parts. A missing one is fatal: a test that skipped would prove nothing.
func Tools(t testing.TB) Parts {
	t.Helper()
	root := root(t)
	part := func(elem ...string) string {
		t.Helper()
		path := filepath.Join(append([]string{root, ".tools"}, elem...)...)
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("%s is missing: run `make tools`", path)
		}
		return path
	}
	modules := part("node", "node_modules")
	return Parts{
		Root:             root,
		Envoy:            part("envoy", "envoy", "_bin", "envoy"),
		Python:           part("python"),
		EverythingServer: part("bin", "everything-server"),
		Node:             part("node", "node_modules", ".bin", "node"),
		NodeModules:      modules,
		Conformance:      part("node", "node_modules", "@modelcontextprotocol", "conformance", "dist", "index.js"),
		Inspector:        part("node", "node_modules", ".bin", "mcp-inspector"),
		ServerEverything: part("node", "node_modules", "@modelcontextprotocol", "server-everything", "dist", "index.js"),
		Repository:       part("quickstart", "repo"),
	}
}

// Mcpgw returns the gateway's binary as `make build` leaves it.
func Mcpgw(t testing.TB) string {
	t.Helper()
	path := filepath.Join(root(t), "bin", "mcpgw")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is missing: run `make build`", path)
	}
	return path
}

// Repository returns a copy of the scratch repository that the test may change.
func Repository(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(Tools(t).Repository)); err != nil {
		t.Fatalf("copying the scratch repository: %v", err)
	}
	return dir
}

// root finds the repository by go.mod, upwards from the folder that go test runs the test in.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("asking for the working directory: %v", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			_, file, _, _ := runtime.Caller(0)
			t.Fatalf("no go.mod above the working directory (the harness was built from %s)", file)
		}
		dir = parent
	}
}
