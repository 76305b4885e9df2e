package opa

import (
	"bytes"
	"io/fs"
	"os"
	"strings"
	"testing"
)

func TestFormat(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"spaces":   {"package a\n# why\nx if {input.a==1\n  input.b }\n", "package a\n\n# why\nx if {\n\tinput.a == 1\n\tinput.b\n}\n"},
		"empty":    {"", ""},
		"comments": {"# only this\n", "# only this\n"},
		"windows":  {"package a\r\n\r\nx := 1\r\n", "package a\n\nx := 1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Format(File{"a.rego", []byte(tc.text)})
			if err != nil || string(got) != tc.want {
				t.Errorf("%q, %v, want %q", got, err, tc.want)
			}
		})
	}
	for text, want := range map[string]string{
		"package a\n\nx { true }\n":                         "a.rego:3:1: `if` keyword is required",
		"package a\n\nx if {\n":                             "a.rego:4:",
		"x := 1\n":                                          "a.rego:1:1: package expected",
		"\x00\x01\x7fELF\xff\xfe":                           "a.rego:1:1: ",
		"package a\n\nx := \"\xff\xfe\" y\n":                "a.rego:3:",
		strings.Repeat("(", 1<<20):                          "a.rego:1:",
		"package a\n\nx := " + strings.Repeat("[", 200_000): "a.rego:3:",
	} {
		if _, err := Format(File{"a.rego", []byte(text)}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.40q: %.200v, want %s", text, err, want)
		}
	}
}

// What the repository shows people is formatted, and formatting it again changes nothing.
func TestShippedIsFormatted(t *testing.T) {
	n := 0
	for _, dir := range []string{"../../policies", "../../examples"} {
		err := fs.WalkDir(os.DirFS(dir), ".", func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".rego") {
				return err
			}
			n++
			text, err := os.ReadFile(dir + "/" + path)
			if err != nil {
				return err
			}
			got, err := Format(File{path, text})
			if err != nil || !bytes.Equal(got, text) {
				t.Errorf("%s/%s is not formatted: mcpgw policy fmt does it (%v)", dir, path, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n < 20 {
		t.Errorf("only %d files", n)
	}
}
