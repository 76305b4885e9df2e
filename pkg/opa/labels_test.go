package opa

import (
	"slices"
	"strings"
	"testing"
)

func TestLabels(t *testing.T) {
	for _, tc := range []struct {
		name, module string
		entry        string
		want         []string
		warned       bool
		quiet        bool // no rule of the policy's own reads labels
	}{
		{name: "none", module: "allow := true"},
		{name: "constants, more than once", module: `
label contains "secret" if input.resource.server == "vault"
label contains "web" if input.resource.server == "http"
label contains "secret" if "private" in input.resource.tags
label contains "always"`, want: []string{"always", "secret", "web"}},
		{name: "of a list in the body", module: `
label contains name if {
	some name in ["a", "b"]
	input.resource.server == "git"
}`, want: []string{"a", "b", "git"}, warned: true},
		{name: "made at run time", module: `
label contains sprintf("read %s", [input.resource.server])
label contains "plain"`, want: []string{"plain", "read %s"}, warned: true},
		{name: "from data", module: `
label contains name if some name in data.labels`, warned: true},
		{name: "another entry point with the same rules", entry: "data.own.ruling", module: `
label contains "secret" if input.resource.server == "vault"`, want: []string{"secret"}, warned: true},
		{name: "nobody but the library reads them", quiet: true, module: `
label contains name if some name in data.mcpgw.lib.flow.given
label contains sprintf("read %s", [input.resource.server])
deny contains "no" if data.mcpgw.lib.flow.tainted("secret")`, want: []string{"read %s"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if !tc.quiet {
				tc.module += "\nreader if \"x\" in input.context.session.labels\ndeny contains \"no\" if reader"
			}
			o := Options{Modules: []File{{Name: "p.rego", Text: []byte("package mcpgw.policy\n\n" + tc.module + "\n")}}, Entrypoint: tc.entry}
			if tc.entry != "" {
				o.Modules = append(o.Modules, File{Name: "own.rego", Text: []byte("package own\n\nruling := {\"effect\": \"allow\", \"label\": data.mcpgw.policy.label} if not data.mcpgw.policy.reader\n")})
			}
			e, err := Load(o)
			if err != nil {
				t.Fatal(err)
			}
			if got := e.Labels(); !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			warned := slices.ContainsFunc(e.Warnings(), func(w Warning) bool {
				return w.Kind == RuntimeLabels && w.Line > 0 && strings.Contains(w.Remedy, "session.lost")
			})
			if warned != tc.warned {
				t.Errorf("warned: %v, %v", warned, e.Warnings())
			}
		})
	}
}
