// Package imports holds the plan of the house as a test: which room stands on which floor, and which
// heavy libraries may enter it.
package imports

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/mcpgw/mcpgw/"

// room is one package and what it may import: any room on a lower floor, the libraries in light, and
// the heavy ones named here.
type room struct {
	floor int
	heavy []string
}

// The house. A new package needs a line here; the line says where in the house it belongs.
var house = map[string]room{
	// Files that programs carry: no code that does anything.
	"envoy":                 {floor: 0},
	"policies":              {floor: 0},
	"proto/mcpgw/config/v1": {floor: 0, heavy: []string{protobuf, protovalidate}},

	"pkg/fault":           {floor: 0},
	"pkg/internal/socket": {floor: 0},

	// words
	"pkg/jsonrpc": {floor: 1},
	"pkg/sse":     {floor: 1},

	"pkg/mcp":  {floor: 2},
	"pkg/edit": {floor: 2},

	// nouns
	"pkg/identity": {floor: 3, heavy: []string{jwx}},
	"pkg/catalog":  {floor: 3},
	"pkg/session":  {floor: 3},

	"pkg/policy":   {floor: 4},
	"pkg/limit":    {floor: 4},
	"pkg/approval": {floor: 4},
	"pkg/upstream": {floor: 4},

	// the walk
	"pkg/gateway": {floor: 5},

	// the slow lane
	"pkg/broker": {floor: 6},

	// leaves: they know the gateway, and nothing of each other
	"pkg/opa":       {floor: 7, heavy: []string{opa}},
	"pkg/extproc":   {floor: 7, heavy: []string{grpc, protobuf, controlPlane}},
	"pkg/extauthz":  {floor: 7, heavy: []string{grpc, protobuf, controlPlane, rpcStatus}},
	"pkg/xds":       {floor: 7, heavy: []string{grpc, protobuf, controlPlane}},
	"pkg/accesslog": {floor: 7, heavy: []string{grpc, protobuf, controlPlane}},
	"pkg/telemetry": {floor: 7, heavy: []string{grpc, otel, prometheus}},
	"pkg/stdio":     {floor: 7},
	"pkg/envoyproc": {floor: 7},
	"pkg/admin":     {floor: 7, heavy: []string{prometheus}},
	"pkg/decision":  {floor: 7, heavy: []string{opa}},

	// tests of policies, by the engine that the gateway has
	"pkg/policytest": {floor: 8},

	// bundles become the sources of the policy engine
	"pkg/bundle": {floor: 8, heavy: []string{opa}},

	// assembly; config stands one step below, since server reads it
	"pkg/config": {floor: 8, heavy: []string{protobuf, protovalidate}},
	"pkg/server": {floor: 9, heavy: []string{grpc, protobuf, controlPlane, otel, prometheus}},

	"cmd/mcpgw": {floor: 10, heavy: []string{protobuf}},
}

// firstLeaf is the lowest floor on which the outside world's heavy libraries may be met.
const firstLeaf = 7

// The rooms that may know the configuration as it is written. All others take plain options.
var readers = []string{"pkg/config", "pkg/server", "cmd/mcpgw"}

// Heavy libraries, as prefixes of import paths separated by spaces.
const (
	grpc          = "google.golang.org/grpc"
	rpcStatus     = "google.golang.org/genproto/googleapis/rpc"
	protobuf      = "google.golang.org/protobuf"
	protovalidate = "buf.build/go buf.build/gen/go/bufbuild/protovalidate"
	controlPlane  = "github.com/envoyproxy/go-control-plane github.com/cncf/xds"
	opa           = "github.com/open-policy-agent/opa"
	otel          = "go.opentelemetry.io"
	prometheus    = "github.com/prometheus"
	jwx           = "github.com/lestrrat-go"
)

// What keeps a room below the leaves from being loaded into Envoy itself one day, or from being read.
var belowLeaves = []string{grpc, protobuf, controlPlane, opa, otel}

// Light libraries: small, without a network, a background or a world of their own. Every room may use them.
var light = []string{
	"golang.org/x",
	"github.com/go-json-experiment/json",
	"github.com/agnivade/levenshtein",
	"github.com/fsnotify/fsnotify",
	"github.com/gobwas/glob",
	"github.com/maypok86/otter",
	"github.com/oklog/run",
	"github.com/santhosh-tekuri/jsonschema",
	"github.com/spf13/cobra",
	"github.com/yosida95/uritemplate",
	"go.yaml.in/yaml",
	"gopkg.in/yaml.v3",
}

// TestRooms reads the imports of all files, whatever system they are built for; tests are free.
func TestRooms(t *testing.T) {
	for dir, files := range packages(t) {
		if strings.HasPrefix(dir, "test/") || strings.HasPrefix(dir, "examples/") {
			continue // they may import everything, and nothing imports them: see check
		}
		r, ok := house[dir]
		if !ok {
			t.Errorf("%s has no line in the table: say which floor it stands on", dir)
			continue
		}
		for _, f := range files {
			for _, spec := range f.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if fault := check(dir, r, path); fault != "" {
					t.Errorf("%s imports %s: %s", dir, path, fault)
				}
			}
		}
	}
}

// check returns what is wrong with an import, or "".
func check(dir string, r room, path string) string {
	if !strings.Contains(strings.SplitN(path, "/", 2)[0], ".") {
		return "" // the standard library
	}
	if own, ok := strings.CutPrefix(path, module); ok {
		other, known := house[own]
		switch {
		case !known:
			return "which is no room of the house"
		case strings.HasPrefix(own, "proto/") && !slices.Contains(readers, dir):
			return "only " + strings.Join(readers, ", ") + " know the configuration's own form; take plain options"
		case other.floor >= r.floor:
			return fmt.Sprintf("which stands on floor %d, not below floor %d", other.floor, r.floor)
		}
		return ""
	}
	if within(path, light...) || within(path, r.heavy...) {
		return ""
	}
	return "a library that this room does not name; if it is needed, its line in the table says so"
}

// within tells whether path is one of the libraries or below one.
func within(path string, libraries ...string) bool {
	for _, prefix := range strings.Fields(strings.Join(libraries, " ")) {
		if path == prefix || strings.HasPrefix(path, prefix+"/") {
			return true
		}
	}
	return false
}

// TestNothingHeavyBelowTheLeaves looks through light libraries too: what they pull in, a room pulls in.
func TestNothingHeavyBelowTheLeaves(t *testing.T) {
	arguments := []string{"list", "-deps", "-f", "{{.ImportPath}}"}
	for dir, r := range house {
		if _, err := os.Stat(filepath.Join(root(t), dir)); err == nil && r.floor < firstLeaf && !strings.HasPrefix(dir, "proto/") {
			arguments = append(arguments, "./"+dir)
		}
	}
	command := exec.Command("go", arguments...)
	command.Dir = root(t)
	var complaint bytes.Buffer
	command.Stderr = &complaint
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &complaint)
	}
	for _, path := range strings.Fields(string(out)) {
		if within(path, belowLeaves...) {
			t.Errorf("a room below floor %d pulls in %s", firstLeaf, path)
		}
	}
}

// TestEveryPackageIsDocumented wants a doc comment in at least one file of each package.
func TestEveryPackageIsDocumented(t *testing.T) {
	for dir, files := range packages(t) {
		if strings.HasPrefix(dir, "proto/") {
			continue // generated; the protos carry the comments
		}
		documented := false
		for _, f := range files {
			text := f.Doc.Text()
			documented = documented || strings.HasPrefix(text, "Package "+f.Name.Name+" ") ||
				(f.Name.Name == "main" && strings.HasPrefix(text, "Command "+filepath.Base(dir)+" "))
		}
		if !documented {
			t.Errorf("%s: no file begins with a comment \"Package %s ...\" (or \"Command ...\")", dir, files[0].Name.Name)
		}
	}
}

// TestCheckFindsFaults tests the test.
func TestCheckFindsFaults(t *testing.T) {
	for _, c := range []struct {
		dir, path string
		good      bool
	}{
		{"pkg/gateway", "context", true},
		{"pkg/gateway", module + "pkg/policy", true},
		{"pkg/gateway", "github.com/go-json-experiment/json/jsontext", true},
		{"pkg/opa", "github.com/open-policy-agent/opa/v1/rego", true},
		{"pkg/server", module + "pkg/config", true},
		{"pkg/policy", module + "pkg/gateway", false},      // upwards
		{"pkg/opa", module + "pkg/extproc", false},         // sideways
		{"pkg/gateway", module + "pkg/server", false},      // upwards
		{"pkg/gateway", module + "test/harness", false},    // out of the house
		{"pkg/gateway", "google.golang.org/grpc", false},   // heavy
		{"pkg/extproc", "go.opentelemetry.io/otel", false}, // another room's
		{"pkg/sse", "github.com/open-policy-agent/opa/v1/ast", false},
		{"pkg/opa", "google.golang.org/grpcfriend", false}, // nobody named it
		{"pkg/xds", module + "proto/mcpgw/config/v1", false},
	} {
		if fault := check(c.dir, house[c.dir], c.path); (fault == "") != c.good {
			t.Errorf("%s imports %s: %q, want good %v", c.dir, c.path, fault, c.good)
		}
	}
}

// packages parses every Go package of the repository: the files that are not tests, up to their imports,
// by directory.
func packages(t *testing.T) map[string][]*ast.File {
	t.Helper()
	found := map[string][]*ast.File{}
	err := filepath.WalkDir(root(t), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		dir, err := filepath.Rel(root(t), filepath.Dir(path))
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		found[filepath.ToSlash(dir)] = append(found[filepath.ToSlash(dir)], f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
