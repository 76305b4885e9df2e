package opa

import (
	"bytes"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mcpgw/mcpgw/policies"
)

func jsonOf(t *ast.Term) (any, error) { return ast.JSON(t.Value) }

func inputSchema(t testing.TB) map[string]any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(policies.InputSchema))
	if err != nil {
		t.Fatal(err)
	}
	return v.(map[string]any)
}

func checkSchema(t testing.TB, input []byte) {
	t.Helper()
	c := jsonschema.NewCompiler()
	if err := c.AddResource("input.json", inputSchema(t)); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("input.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(input))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(v); err != nil {
		t.Errorf("%s: %v", input, err)
	}
}

// schemaPaths are the paths of the schema's leaves: what has no properties of its own.
func schemaPaths(t testing.TB) map[string]bool {
	out := map[string]bool{}
	var walk func(path string, node map[string]any)
	walk = func(path string, node map[string]any) {
		properties, ok := node["properties"].(map[string]any)
		if !ok {
			out[path] = true
		}
		for name, n := range properties {
			if path != "" {
				name = path + "." + name
			}
			walk(name, n.(map[string]any))
		}
	}
	walk("", inputSchema(t))
	return out
}
