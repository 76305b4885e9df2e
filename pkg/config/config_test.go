package config

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
)

var update = flag.Bool("update", false, "rewrite the expected messages in testdata")

// here is the directory the test files' relative paths begin in.
func here(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestFiles reads every file of testdata: *.bad.yaml must give the messages of
// *.bad.txt, *.good.yaml the warnings of *.good.txt.
func TestFiles(t *testing.T) {
	t.Setenv("MCPGW_TEST_TOKEN", "s3cret")
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			c, err := Load(file)
			got := ""
			switch {
			case strings.HasSuffix(file, ".good.yaml"):
				if err != nil {
					t.Fatal(err)
				}
				got = c.Warnings.Error()
			case err == nil:
				t.Fatal("no fault was found")
			default:
				got = err.Error()
				var faults Faults
				if !errors.As(err, &faults) {
					t.Fatalf("%T is not Faults", err)
				}
				for _, f := range faults {
					if f.Line == 0 || f.Column == 0 || f.Remedy == "" {
						t.Errorf("without place or remedy: %v", f)
					}
				}
			}
			got = strings.ReplaceAll(got, here(t), "$DIR") + "\n"
			if strings.Contains(got, "s3cret") && !strings.Contains(got, "value: s3cret") {
				t.Error("a message holds a secret")
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLoadRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, bytes.Repeat([]byte("# padding\n"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ path, want string }{
		{dir, "is a directory"},
		{filepath.Join(dir, "none.yaml"), "there is no such file"},
		{large, "is larger than 4194304 bytes"},
		{os.DevNull, "is not a regular file"},
	} {
		_, err := Load(test.path)
		var faults Faults
		if !errors.As(err, &faults) || len(faults) != 1 || faults[0].Message != test.want || faults[0].File != test.path {
			t.Errorf("Load(%s): %v, want %s", test.path, err, test.want)
		}
	}
	if _, err := Parse("x.yaml", bytes.Repeat([]byte("#"), MaxBytes+1)); err == nil {
		t.Error("Parse takes more than MaxBytes")
	}
}

// TestResolved holds what Load does to paths and addresses.
func TestResolved(t *testing.T) {
	t.Setenv("MCPGW_TEST_TOKEN", "s3cret")
	c, err := Load("testdata/full.good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := here(t)
	in := func(elements ...string) string { return filepath.Join(append([]string{dir}, elements...)...) }
	for _, test := range []struct{ what, got, want string }{
		{"policy.directory", c.Proto.Policy.Directory, in("policies")},
		{"policy.data_files[0]", c.Proto.Policy.DataFiles[0], in("grants.json")},
		{"stdio.cwd", c.Proto.Servers[1].GetStdio().Cwd, in("policies")},
		{"envoy.run_dir", c.Proto.Envoy.RunDir, in("run")},
		{"localhost", c.Proto.Listeners[1].Address, "127.0.0.1:8080"},
		{"socket", c.Proto.Listeners[2].Address, "unix:" + in("run", "ingress.sock")},
		{"admin", c.Proto.Admin.Address, "unix:" + in("run", "admin.sock")},
	} {
		if test.got != test.want {
			t.Errorf("%s is %s, want %s", test.what, test.got, test.want)
		}
	}
	want := []string{in("full.good.yaml"), in("grants.json"), in("policies")}
	if diff := cmp.Diff(want, c.Files); diff != "" {
		t.Errorf("watched files: %s", diff)
	}
}

// TestRoundTrip says that Marshal writes what Parse reads, and always the same.
func TestRoundTrip(t *testing.T) {
	t.Setenv("MCPGW_TEST_TOKEN", "s3cret")
	c, err := Load("testdata/full.good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, err := Marshal(c.Proto)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse("testdata/again.yaml", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if diff := cmp.Diff(c.Proto, again.Proto, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if c.Version != again.Version {
		t.Error("the version depends on how a configuration is written")
	}
	for range 10 {
		if other, err := Marshal(c.Proto); err != nil || !bytes.Equal(other, text) {
			t.Fatal("Marshal is not stable", err)
		}
	}
	for _, field := range []string{"listeners:", "servers:", "endpoints:", "policy:", "authentication:", "telemetry:", "admin:", "limits:", "envoy:"} {
		_, after, ok := strings.Cut("\n"+string(text), "\n"+field)
		if !ok {
			t.Fatalf("%s is not where the proto has it:\n%s", field, text)
		}
		text = []byte("\n" + after)
	}
}

func TestFaultsAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("listeners:\n  - {address: 127.0.0.1:8080, anonymous: {}}\npolicy: {directory: policies}\nservers:\n")
	for range 5000 {
		b.WriteString("  - {name: UPPER}\n")
	}
	_, err := Parse("testdata/x.yaml", []byte(b.String()))
	var faults Faults
	if !errors.As(err, &faults) || len(faults) != maxFaults+1 || !strings.Contains(faults[maxFaults].Message, "more faults") {
		t.Fatalf("%d faults", len(faults))
	}
	var one Fault
	if !errors.As(err, &one) {
		t.Error("errors.As finds no Fault")
	}
}

// FuzzParse looks for a file that is neither refused nor read: a panic, a fault
// without a place, an accepted file that does not survive Marshal.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("testdata/fuzz.yaml", data)
		if err != nil {
			var faults Faults
			if !errors.As(err, &faults) || len(faults) == 0 {
				t.Fatalf("%T: %v", err, err)
			}
			for _, fault := range faults {
				if fault.File == "" || fault.Message == "" {
					t.Errorf("an empty fault: %#v", fault)
				}
			}
			return
		}
		text, err := Marshal(c.Proto)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("testdata/fuzz.yaml", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if diff := cmp.Diff(c.Proto, again.Proto, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	})
}
