package readme

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/policytest"
	"github.com/mcpgw/mcpgw/test/harness"
)

// TestPolicyTests runs the tests that the documents show, marked "rego test" and "yaml test", on the quick start's policy. One that is
// not marked is a fault, for nothing would run it.
func TestPolicyTests(t *testing.T) {
	dir := filepath.Join(harness.Tools(t).Root, "examples", "quickstart", "policy")
	modules, err := opa.ReadFiles(filepath.Join(dir, "quickstart.rego"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "catalog.json"))
	if err != nil {
		t.Fatal(err)
	}
	items, err := catalog.ReadSaved(text)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range documents(t) {
		for _, b := range Blocks(text) {
			o := policytest.Options{Modules: modules, Questions: policytest.Questions{Catalog: items}}
			switch {
			case b.Is("rego", "test"):
				o.Modules = append(o.Modules[:1:1], opa.File{Name: "readme_test.rego", Text: []byte(b.Text)})
			case b.Is("yaml", "test"):
				o.Tables = []opa.File{{Name: "readme_test.yaml", Text: []byte(b.Text)}}
			default:
				if len(b.Info) > 0 && (strings.Contains(b.Text, "import data.mcpgw.test") || strings.HasPrefix(b.Text, "tests:\n")) {
					t.Errorf("%s:%d: tests in a block that is not marked `%s test`", name, b.Line, b.Info[0])
				}
				continue
			}
			r, err := policytest.Run(t.Context(), o)
			if err != nil {
				t.Errorf("%s:%d: %v", name, b.Line, err)
				continue
			}
			if !r.OK() {
				var why strings.Builder
				if err := r.WriteText(&why, false); err != nil {
					t.Fatal(err)
				}
				t.Errorf("%s:%d:\n%s", name, b.Line, why.String())
			}
		}
	}
}
