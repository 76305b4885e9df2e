package conformance

import (
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/mcpgw/mcpgw/test/harness"
)

var update = flag.Bool("update", false, "write baseline.json from a run without a gateway")

// TestSuiteWithoutGateway runs both requirement sets against the everything-servers themselves, joined
// by the era proxy. If this fails, it is not the gateway's fault.
func TestSuiteWithoutGateway(t *testing.T) {
	url := harness.StartDualEra(t)
	fresh := map[string]map[string]bound{}
	for _, requirements := range Requirements {
		scenarios := Run(t, url, requirements)
		fresh[requirements] = map[string]bound{}
		for name, s := range scenarios {
			fresh[requirements][name] = bound{Checks: s.checks(), Warnings: s.Warnings, Skipped: s.Skipped}
		}
		if !*update {
			Judge(t, "direct", requirements, scenarios)
		}
	}
	if *update {
		text, err := json.MarshalIndent(fresh, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("baseline.json", append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// failures is a test that may fail without failing the one it is used in.
type failures struct {
	testing.TB
	errors int
}

func (f *failures) Helper()               {}
func (f *failures) Logf(string, ...any)   {}
func (f *failures) Errorf(string, ...any) { f.errors++ }

func TestJudge(t *testing.T) {
	good := map[string]Scenario{}
	for name, b := range readBaseline(t)["2026-07-28"] {
		s := Scenario{Scored: true, Passed: b.Checks - b.Warnings, Warnings: b.Warnings, Skipped: b.Skipped}
		if expected, _ := readExpected(t, "direct", "2026-07-28"); expected[name] != "" {
			s = Scenario{Failed: 1}
		}
		good[name] = s
	}
	for _, c := range []struct {
		name   string
		change func(map[string]Scenario)
		errors int
	}{
		{"as the baseline", func(map[string]Scenario) {}, 0},
		{"one check more", func(m map[string]Scenario) { s := m["caching"]; s.Passed++; m["caching"] = s }, 0},
		{"one check fewer", func(m map[string]Scenario) { s := m["caching"]; s.Passed--; m["caching"] = s }, 1},
		{"one check fails", func(m map[string]Scenario) { s := m["caching"]; s.Passed--; s.Failed++; m["caching"] = s }, 1},
		{"one check warns", func(m map[string]Scenario) { s := m["caching"]; s.Passed--; s.Warnings++; m["caching"] = s }, 1},
		{"one check skipped more", func(m map[string]Scenario) { s := m["caching"]; s.Skipped++; m["caching"] = s }, 1},
		{"a scenario that did not run", func(m map[string]Scenario) { m["caching"] = Scenario{Scored: true} }, 1},
		{"a scenario that is gone", func(m map[string]Scenario) { delete(m, "caching") }, 1},
		{"a scenario that nobody knows", func(m map[string]Scenario) { m["new"] = Scenario{Passed: 1} }, 1},
		{"an expected failure that passes", func(m map[string]Scenario) { m["tasks-lifecycle"] = Scenario{Passed: 9} }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			scenarios := map[string]Scenario{}
			for name, s := range good {
				scenarios[name] = s
			}
			c.change(scenarios)
			fake := failures{TB: t}
			Judge(&fake, "direct", "2026-07-28", scenarios)
			if fake.errors != c.errors {
				t.Errorf("%d errors, want %d", fake.errors, c.errors)
			}
		})
	}
}
