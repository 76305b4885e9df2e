package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets this test's binary play the parts that run in processes of their own.
func TestMain(m *testing.M) {
	if role := roles[os.Getenv(roleVariable)]; role != nil {
		exit(role())
	}
	os.Exit(m.Run())
}

// TestQuick runs a small benchmark of every case over the real parts. It asserts nothing about time.
func TestQuick(t *testing.T) {
	dir := t.TempDir()
	var table bytes.Buffer
	if err := command(t.Context(), []string{"-quick", "-out", dir}, &table); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r report
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if r.Hardware.Cores < 1 || r.Versions.Envoy == "" || r.Versions.Go == "" || r.Versions.Mcpgw == "" {
		t.Errorf("what was measured, and on what? %+v %+v", r.Hardware, r.Versions)
	}
	for _, s := range scenarios {
		rows := 0
		for _, row := range r.Rows {
			if row.Case != s.name {
				continue
			}
			rows++
			if row.Errors != 0 || row.Requests < 1 || row.Median <= 0 || row.P99 < row.Median || row.Rate <= 0 || row.Payload < 100 || row.Era != s.era() {
				t.Errorf("a row that cannot be: %+v", row)
			}
			if row.CPU.Envoy <= 0 || (row.CPU.Mcpgw > 0) != s.of.gateway {
				t.Errorf("CPU time that cannot be: %+v", row)
			}
		}
		want := len(quick.connections)
		if s.sizes {
			want *= len(quick.payloads)
		}
		if rows != want {
			t.Errorf("case %s has %d rows, want %d", s.name, rows, want)
		}
		if !strings.Contains(table.String(), s.name) {
			t.Errorf("the table misses %s", s.name)
		}
	}
	var m memory
	if b, err = os.ReadFile(filepath.Join(dir, "memory.json")); err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil || m.Idle <= 0 || m.Sessions != quick.sessions || m.WithSessions <= 0 {
		t.Errorf("memory report %+v: %v", m, err)
	}
}

// TestWrongAnswers: the load generator counts what is not the answer to its own call.
func TestWrongAnswers(t *testing.T) {
	p, err := newPlant(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	s := scenario{name: "plain", of: plain, path: pathModern, method: call, tool: toolEcho}
	at, err := p.startSubject(t.Context(), plain)
	if err != nil {
		t.Fatal(err)
	}
	c := &cell{scenario: s, connections: 2, payload: 300}
	if err := at.prepare(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	c.job.Time, c.job.Calls = 1, 3
	if err := p.block(t.Context(), at, c, false); err != nil || c.errors != 0 || c.requests == 0 {
		t.Fatalf("%d errors in %d calls (%s): %v", c.errors, c.requests, c.fault, err)
	}
	c.job.Want[1] = bytes.Replace(c.job.Want[1], []byte("fox"), []byte("dog"), 1)
	if err := p.block(t.Context(), at, c, false); err != nil || c.errors == 0 || !strings.Contains(c.fault, "wrong answer") {
		t.Fatalf("another text is no error (%s): %v", c.fault, err)
	}
}
