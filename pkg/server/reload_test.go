package server

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestDirectories: a policy's directory is watched as a whole, also where its name is a link.
func TestDirectories(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := os.MkdirAll(filepath.Join(real, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{real, link} {
		if got := directories(d); !slices.Equal(got, []string{d, filepath.Join(d, "sub")}) {
			t.Errorf("%s: %q", d, got)
		}
	}
	if got := slices.Concat(directories(""), directories(filepath.Join(dir, "none"))); len(got) > 0 {
		t.Errorf("found %q", got)
	}
}
