package main

import (
	"os"
	"strings"
	"testing"
)

// TestOutputIsReadFirst: a form that does not exist is told before a command has done, asked or written anything. None of these could get
// further here: there is no gateway, no log and no policy.
func TestOutputIsReadFirst(t *testing.T) {
	folder(t, map[string]string{"p/p.rego": goodPolicy})
	for _, args := range []string{
		"approve ID", "approvals", "catalog", "catalog pin", "catalog diff", "check", "explain ID", "key new", "version", "policy bundle p --out b.tar.gz",
		"policy bundle verify b.tar.gz", "policy check", "policy promote", "policy replay --log l --policy p", "policy shadow --reset", "policy status",
	} {
		if out, err := execute(append(strings.Fields(args), "--output", "yaml")...); err == nil || err.Error() != "--output yaml: want text or json" {
			t.Errorf("%s: %v\n%s", args, err, out)
		}
	}
	if _, err := os.Stat("b.tar.gz"); err == nil {
		t.Error("a bundle was written")
	}
}
