package policies_test

import (
	"testing"

	"github.com/mcpgw/mcpgw/pkg/opa"
)

// TestRego runs the Rego tests that lie beside the shipped modules.
func TestRego(t *testing.T) {
	results, err := opa.Test(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) < 20 {
		t.Fatalf("only %d tests found", len(results))
	}
	for _, r := range results {
		t.Run(r.Package+"/"+r.Name, func(t *testing.T) {
			if !r.Passed {
				t.Errorf("%s:%d: failed: %v\n%s", r.File, r.Line, r.Err, r.Output)
			}
		})
	}
}
