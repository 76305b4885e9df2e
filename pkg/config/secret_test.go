package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("MCPGW_TEST_SECRET", "from-env")
	t.Setenv("MCPGW_TEST_LARGE", strings.Repeat("x", maxSecretBytes+1))
	file := func(path string) *configv1.SecretSource {
		return &configv1.SecretSource{Source: &configv1.SecretSource_File{File: path}}
	}
	env := func(name string) *configv1.SecretSource {
		return &configv1.SecretSource{Source: &configv1.SecretSource_Env{Env: name}}
	}
	for _, test := range []struct {
		from *configv1.SecretSource
		want string
		err  string
	}{
		{file(write("plain", "s")), "s", ""},
		{file(write("newline", "s\n")), "s", ""},
		{file(write("crlf", "s\r\n")), "s", ""},
		{file(write("two", "s\n\n")), "s\n", ""},
		{file(write("empty", "\n")), "", "is empty"},
		{file(write("large", strings.Repeat("x", maxSecretBytes+1))), "", "is larger than"},
		{file(dir), "", "is a directory"},
		{file(filepath.Join(dir, "none")), "", "there is no such file"},
		{file(os.DevNull), "", "is not a regular file"},
		{env("MCPGW_TEST_SECRET"), "from-env", ""},
		{env("MCPGW_TEST_UNSET"), "", "is not set"},
		{env("MCPGW_TEST_LARGE"), "", "is larger than"},
		{nil, "", "is named"},
	} {
		got, err := ReadSecret(test.from)
		switch {
		case test.err == "" && (err != nil || got.Reveal() != test.want):
			t.Errorf("%v: %q, %v", test.from, got.Reveal(), err)
		case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%v: %v, want %s", test.from, err, test.err)
		}
	}
	if v, err := ReadValue(&configv1.Value{Source: &configv1.Value_Value{Value: "plain"}}); err != nil || v.Reveal() != "plain" {
		t.Error(v.Reveal(), err)
	}
}
