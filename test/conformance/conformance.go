// Package conformance runs the official MCP conformance suite against a URL and judges what came out.
//
// The suite's own exit status is not enough: it is 0 when a scenario was skipped, when a check became a
// warning, and even when nothing was tested. So every check is read from the suite's checks.json files
// and held against two files beside this one. baseline.json says how many checks each scenario made when
// a server without a gateway was tested: fewer, or more warnings or skips, is a failure.
// expected-failures.yaml names what may fail, and where a gateway rightly makes fewer checks or more
// warnings than a server does, each with its reason; what it says must be so, and an entry goes when its
// reason does. Nothing is tried twice.
package conformance

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/mcpgw/mcpgw/test/harness"
)

// Requirements are the suite's requirement sets, one a revision.
var Requirements = []string{"2025-11-25", "2026-07-28"}

// suiteTimeout bounds one run of the suite, which takes seconds when nothing hangs; one scenario that
// hangs costs 30 s.
const suiteTimeout = 10 * time.Minute

//go:embed baseline.json
var baselineJSON []byte

//go:embed expected-failures.yaml
var expectedYAML []byte

// Scenario is what one scenario's checks came to.
type Scenario struct {
	Scored   bool     // counts for conformance; the others run and are judged by the baseline alone
	Passed   int      // checks
	Failed   int      // checks
	Warnings int      // checks
	Skipped  int      // checks
	Faults   []string // "id: message" of each check that failed, warned or was skipped
}

func (s Scenario) checks() int { return s.Passed + s.Failed + s.Warnings }

func (s Scenario) good() bool { return s.Failed == 0 && s.Passed > 0 }

// faults lists the faults below a message.
func (s Scenario) faults() string {
	if len(s.Faults) == 0 {
		return ""
	}
	return "\n  " + strings.Join(s.Faults, "\n  ")
}

// Run runs one requirement set against the MCP endpoint at url and returns the scenarios by name, those
// that should have run and did not included.
func Run(t testing.TB, url, requirements string) map[string]Scenario {
	t.Helper()
	tools := harness.Tools(t)
	out := t.TempDir()
	// One scenario sends a foreign Host beside a good one, and takes only localhost for good.
	url = strings.Replace(url, "//127.0.0.1:", "//localhost:", 1)
	p := harness.StartNode(t, nil, tools.Conformance, "server", "--url", url, "--requirements", requirements, "-o", out)
	status := p.Wait(t, suiteTimeout)
	scenarios := declared(t, tools, requirements)
	files, err := filepath.Glob(filepath.Join(out, "*", "checks.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the suite wrote no checks (status %d, %v):\n%s%s", status, err, p.Stdout, p.Stderr)
	}
	for _, file := range files {
		name := scenarioName(filepath.Base(filepath.Dir(file)))
		s, known := scenarios[name]
		if !known {
			t.Fatalf("the suite ran %q, which is not in its requirement set", name)
		}
		tally(t, file, &s)
		scenarios[name] = s
	}
	return scenarios
}

// declared reads the scenarios of a requirement set from the suite's own file.
func declared(t testing.TB, tools harness.Parts, requirements string) map[string]Scenario {
	t.Helper()
	var set struct {
		Server    []string `yaml:"server"`
		NotScored []struct {
			Scenario string `yaml:"scenario"`
			Leg      string `yaml:"leg"`
		} `yaml:"not_scored"`
	}
	file := filepath.Join(tools.NodeModules, "@modelcontextprotocol", "conformance", "requirements", requirements+".yaml")
	text, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(text, &set)
	}
	if err != nil || len(set.Server) == 0 {
		t.Fatalf("reading the requirement set %s: %v", file, err)
	}
	scenarios := map[string]Scenario{}
	for _, name := range set.Server {
		scenarios[name] = Scenario{Scored: true}
	}
	for _, s := range set.NotScored {
		if s.Leg == "server" {
			scenarios[s.Scenario] = Scenario{}
		}
	}
	return scenarios
}

var stamp = regexp.MustCompile(`-\d{4}-\d{2}-\d{2}T[0-9-]+Z$`)

// scenarioName takes the leg and the time off the name of a result's folder.
func scenarioName(folder string) string {
	return stamp.ReplaceAllString(strings.TrimPrefix(folder, "server-"), "")
}

func tally(t testing.TB, file string, s *Scenario) {
	t.Helper()
	var checks []struct {
		ID      string `json:"id"`
		Status  string `json:"status"`
		Message string `json:"errorMessage"`
	}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &checks)
	}
	if err != nil {
		t.Fatalf("reading %s: %v", file, err)
	}
	for _, c := range checks {
		switch c.Status {
		case "SUCCESS":
			s.Passed++
		case "FAILURE":
			s.Failed++
		case "WARNING":
			s.Warnings++
		case "SKIPPED":
			s.Skipped++
		case "INFO": // what happened, not whether it is right
		default:
			t.Fatalf("%s: check %s has the unknown status %q", file, c.ID, c.Status)
		}
		if c.Status == "FAILURE" || c.Status == "WARNING" || c.Status == "SKIPPED" {
			s.Faults = append(s.Faults, strings.ToLower(c.Status)+" "+c.ID+": "+c.Message)
		}
	}
}

// Row is the report of one run; it counts scored scenarios and their checks only.
type Row struct {
	Through         string   `json:"through"`
	Requirements    string   `json:"requirements"`
	ScenariosPassed int      `json:"scenarios_passed"`
	ScenariosTotal  int      `json:"scenarios_total"`
	ChecksPassed    int      `json:"checks_passed"`
	ChecksFailed    int      `json:"checks_failed"`
	Warnings        int      `json:"warnings"`
	Skipped         int      `json:"skipped"`
	NotPassed       []string `json:"not_passed"`
}

// Judge fails the test for whatever baseline and expected failures do not allow, and returns the report.
// through is "server" (one server's own endpoint), "aggregate" (an endpoint of several) or "direct" (no
// gateway at all, which tests the harness).
func Judge(t testing.TB, through, requirements string, scenarios map[string]Scenario) Row {
	t.Helper()
	row := Row{Through: through, Requirements: requirements, NotPassed: []string{}}
	baseline := readBaseline(t)[requirements]
	expected, adjusted := readExpected(t, through, requirements)
	for name := range baseline {
		if _, ok := scenarios[name]; !ok {
			t.Errorf("%s %s: %s is in the baseline but no longer in the suite", through, requirements, name)
		}
	}
	for name, s := range scenarios {
		if s.Scored {
			row.ScenariosTotal++
			row.ChecksPassed += s.Passed
			row.ChecksFailed += s.Failed
			row.Warnings += s.Warnings
			row.Skipped += s.Skipped
			if s.good() {
				row.ScenariosPassed++
			} else {
				row.NotPassed = append(row.NotPassed, name)
			}
		}
		was, ok := baseline[name]
		if !ok {
			t.Errorf("%s %s: %s is not in the baseline", through, requirements, name)
			continue
		}
		if a, ok := adjusted[name]; ok {
			was = a.over(was)
			delete(adjusted, name)
		}
		reason, mayFail := expected[name]
		switch {
		case mayFail && s.good():
			t.Errorf("%s %s: %s passes now: take it out of expected-failures.yaml", through, requirements, name)
		case mayFail:
			t.Logf("%s %s: %s does not pass, as expected: %s", through, requirements, name, reason)
		case s.Failed > 0:
			t.Errorf("%s %s: %s fails:%s", through, requirements, name, s.faults())
		case s.checks() < was.Checks:
			t.Errorf("%s %s: %s made %d checks, the baseline has %d%s", through, requirements, name, s.checks(), was.Checks, s.faults())
		case s.Warnings > was.Warnings || s.Skipped > was.Skipped:
			t.Errorf("%s %s: %s has %d warnings and %d skipped, the baseline %d and %d%s",
				through, requirements, name, s.Warnings, s.Skipped, was.Warnings, was.Skipped, s.faults())
		}
		delete(expected, name)
	}
	for name := range expected {
		t.Errorf("%s %s: expected-failures.yaml names %s, which does not exist", through, requirements, name)
	}
	for name := range adjusted {
		t.Errorf("%s %s: expected-failures.yaml adjusts %s, which does not exist", through, requirements, name)
	}
	slices.Sort(row.NotPassed)
	t.Logf("%s %s: %d of %d scenarios, %d checks passed, %d failed", through, requirements,
		row.ScenariosPassed, row.ScenariosTotal, row.ChecksPassed, row.ChecksFailed)
	return row
}

// Write leaves the report of a whole run in .out/conformance.json.
func Write(t testing.TB, rows []Row) {
	t.Helper()
	text, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		t.Fatalf("encoding the report: %v", err)
	}
	dir := filepath.Join(harness.Tools(t).Root, ".out")
	if err = os.MkdirAll(dir, 0o755); err == nil {
		err = os.WriteFile(filepath.Join(dir, "conformance.json"), append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Fatalf("writing the report: %v", err)
	}
}

// bound is what the baseline holds of a scenario.
type bound struct {
	Checks   int `json:"checks"` // at least; passed, failed and warnings
	Warnings int `json:"warnings,omitempty"`
	Skipped  int `json:"skipped,omitempty"`
}

func readBaseline(t testing.TB) map[string]map[string]bound {
	t.Helper()
	var b map[string]map[string]bound
	if err := json.Unmarshal(baselineJSON, &b); err != nil {
		t.Fatalf("baseline.json: %v", err)
	}
	return b
}

// adjustment is what replaces a scenario's bounds.
type adjustment struct {
	Checks   *int `yaml:"checks"`
	Warnings *int `yaml:"warnings"`
}

func (a adjustment) over(b bound) bound {
	if a.Checks != nil {
		b.Checks = *a.Checks
	}
	if a.Warnings != nil {
		b.Warnings = *a.Warnings
	}
	return b
}

// readExpected returns, by scenario, the reasons of those that may fail and the adjusted bounds of those
// that may not.
func readExpected(t testing.TB, through, requirements string) (map[string]string, map[string]adjustment) {
	t.Helper()
	var entries []struct {
		Scenario     string     `yaml:"scenario"`
		Requirements string     `yaml:"requirements"`
		Through      []string   `yaml:"through"`
		Reason       string     `yaml:"reason"`
		But          adjustment `yaml:"but"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(expectedYAML))
	decoder.KnownFields(true)
	if err := decoder.Decode(&entries); err != nil {
		t.Fatalf("expected-failures.yaml: %v", err)
	}
	reasons, adjusted := map[string]string{}, map[string]adjustment{}
	for i, e := range entries {
		if e.Scenario == "" || e.Reason == "" || len(e.Through) == 0 || !slices.Contains(Requirements, e.Requirements) {
			t.Fatalf("expected-failures.yaml: entry %d (%s) wants scenario, requirements, through and a reason", i+1, e.Scenario)
		}
		if e.Requirements == requirements && slices.Contains(e.Through, through) {
			if e.But != (adjustment{}) {
				adjusted[e.Scenario] = e.But
			} else {
				reasons[e.Scenario] = e.Reason
			}
		}
	}
	return reasons, adjusted
}
