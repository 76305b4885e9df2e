package catalog

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A URI that a server may take for another one matches no template.
func TestResolveURISpelling(t *testing.T) {
	s := source("s", true, "resource=res://host/a/../b", "resource=res://host/%2e", "template=res://host/{+path}", "template=res://host/x{?q}",
		"template=Note://Team/{id}", "template=mem:{+rest}", "template=any://{host}/p", "template=wild{+all}")
	v := Build([]Endpoint{{Name: "e", Path: "/mcp", Servers: open}}, []*Source{s}, nil).View("/mcp")
	for _, tc := range []struct {
		uri   string
		found bool
	}{
		{"res://host/a", true},
		{"res://host/", true},
		{"res://host/a/b.c/..d/e../...", true},
		{"res://host/a%20b", true},
		{"res://host/caf%C3%A9", true},
		{"res://host/%252e%252e/secret", true}, // once decoded it is a name with percent signs
		{"res://host/x?q=a%2Fb%5C", true},      // RFC 6570 writes a value's slash in this way
		{"res://host/x?q=a/../b", true},
		{"res://host/A/B", true},
		{"res://host//a//", true},
		{"res://host/https://Example.com/A", true},

		{"res://host/a/../b", true}, // as declared
		{"res://host/%2e", true},    // as declared
		{"res://host/a/../c", false},
		{"res://host/../secret", false},
		{"res://host/..", false},
		{"res://host/.", false},
		{"res://host/./secret", false},
		{"res://host/a/./b?q", false},
		{"res://host/a/..#f", false},
		{"res://host/%2e%2e/secret", false},
		{"res://host/%2E./secret", false},
		{"res://host/.%2e", false},
		{"res://host/..%2fsecret", false},
		{"res://host/..%2Fsecret", false},
		{"res://host/a%5Csecret", false},
		{"res://host/a%5csecret", false},
		{`res://host/..\secret`, false},
		{`res://host/x?q=\`, false},
		{"res://host/%73ecret", false},
		{"res://host/%7Euser", false},
		{"res://host/x?q=%73", false},
		{"res://host/caf%c3%a9", false},
		{"res://host/%", false},
		{"res://host/%4", false},
		{"res://host/%zz", false},
		{"res://host/a%2", false},
		{"res://host/a b", false},
		{"res://host/a\tb", false},
		{"res://host/a\x00", false},
		{"res://host/a\x7f", false},
		{"res://host/a\n", false},
		{"RES://host/a", false},
		{"res://HOST/a", false},

		{"Note://Team/a", true}, // the template says so
		{"Note://Team/A", true},
		{"note://team/a", false},
		{"any://h-1.org/p", true},
		{"any://Host/p", false},
		{"any://hosT/p", false},
		{"any://../p", false},
		{"mem:a/b", true},
		{"mem:A", true},
		{"mem:..", false},
		{"mem:../a", false},
		{"mem://A/b", false},
		{"mem://User@a/B", true},
		{"mem://user@A:80/b", false},
		{"mem://%C3%84/b", true},
		{"wild://a", true},
		{"wildX://a", false},
		{"wild/X:y", true}, // no scheme
	} {
		if got := v.ResolveURI(tc.uri) != nil; got != tc.found {
			t.Errorf("%q: found is %v, want %v", tc.uri, got, tc.found)
		}
	}
}

var (
	escape   = regexp.MustCompile("%[0-9A-Fa-f]{2}")
	harmless = regexp.MustCompile("^[A-Za-z0-9._~-]$")
	parts    = regexp.MustCompile(`(?s)^(([^:/?#]+):)?(//([^/?#]*))?([^?#]*)(.*)$`) // RFC 3986, appendix B
	capitals = regexp.MustCompile("%..|[A-Z]")
)

// normalForm is RFC 3986, section 6.2.2, by the letter.
func normalForm(uri string) string {
	uri = escape.ReplaceAllStringFunc(uri, func(e string) string {
		c, _ := url.PathUnescape(e)
		if harmless.MatchString(c) {
			return c
		}
		return strings.ToUpper(e)
	})
	m := parts.FindStringSubmatch(uri)
	authority := m[3]
	if user, host, ok := cutLast(authority, "@"); ok {
		authority = user + "@" + lower(host)
	} else {
		authority = lower(authority)
	}
	return strings.ToLower(m[1]) + authority + removeDotSegments(m[5]) + m[6]
}

// lower leaves escapes alone.
func lower(s string) string {
	return capitals.ReplaceAllStringFunc(s, func(x string) string {
		if len(x) == 1 {
			return strings.ToLower(x)
		}
		return x
	})
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

// removeDotSegments is the routine of section 5.2.4.
func removeDotSegments(in string) string {
	out := ""
	for in != "" {
		switch {
		case strings.HasPrefix(in, "../"):
			in = in[3:]
		case strings.HasPrefix(in, "./"):
			in = in[2:]
		case strings.HasPrefix(in, "/./"):
			in = in[2:]
		case in == "/.":
			in = "/"
		case strings.HasPrefix(in, "/../"):
			in, out = in[3:], out[:max(0, strings.LastIndexByte(out, '/'))]
		case in == "/..":
			in, out = "/", out[:max(0, strings.LastIndexByte(out, '/'))]
		case in == "." || in == "..":
			in = ""
		default:
			n := strings.IndexByte(in[1:], '/') + 1
			if n == 0 {
				n = len(in)
			}
			out, in = out+in[:n], in[n:]
		}
	}
	return out
}

// What a template matches is its own normal form, and stays within the folder that its text names when a server decodes it first.
func TestPropertyResolvedURIsAreNormal(t *testing.T) {
	s := source("s", true, "template=res://{+rest}", "template=r{+rest}")
	v := Build([]Endpoint{{Name: "e", Path: "/mcp", Servers: open}}, []*Source{s}, nil).View("/mcp")
	piece := rapid.OneOf(
		rapid.SampledFrom([]string{"/", "//", ".", "..", "/../", "/./", "%", "%2e", "%2E", "%2f", "%2F", "%5c", "%5C", "%25", "%41", "%7E", "%20", "%C3%A9", "%c3", "\\", "?", "#", ":", "@", "A", "a", "b.c", " ", "\n", "é", "host", "Host", "res:"}),
		rapid.StringN(0, 3, -1),
	)
	decode := func(s string) string { d, _ := url.PathUnescape(s); return d }
	rapid.Check(t, func(t *rapid.T) {
		uri := rapid.SampledFrom([]string{"res://", "res://host/", "res:", "r", "res://u@h:1/"}).Draw(t, "begin") + strings.Join(rapid.SliceOfN(piece, 0, 8).Draw(t, "pieces"), "")
		if v.ResolveURI(uri) == nil {
			return
		}
		if n := normalForm(uri); n != uri {
			t.Errorf("%q is found, and its normal form is %q", uri, n)
		}
		path, _, _ := strings.Cut(uri, "?")
		path, _, _ = strings.Cut(path, "#")
		if strings.Count(decode(path), "/") != strings.Count(path, "/") || strings.Contains("/"+decode(path)+"/", "/../") || strings.Contains(decode(path), `\`) {
			t.Errorf("%q is found, and decoded it is another path: %q", uri, decode(path))
		}
	})
	rapid.Check(t, func(t *rapid.T) { // what is written with care is found
		name := rapid.StringMatching(`([a-zA-Z0-9_~-]|%20|%C3%A9|%25){1,8}(\.[a-z]{1,3})?`)
		uri := "res://host/" + strings.Join(rapid.SliceOfN(name, 1, 5).Draw(t, "names"), "/")
		if n := normalForm(uri); n != uri || v.ResolveURI(uri) == nil {
			t.Errorf("%q, in normal form %q, is not found", uri, n)
		}
	})
}
