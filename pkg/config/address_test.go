package config

import "testing"

func TestParseAddress(t *testing.T) {
	for _, test := range []struct {
		in    string
		want  Address
		local bool
	}{
		{"127.0.0.1:8080", Address{"tcp", "127.0.0.1:8080"}, true},
		{"localhost:0", Address{"tcp", "127.0.0.1:0"}, true},
		{"[::1]:1", Address{"tcp", "[::1]:1"}, true},
		{"127.9.9.9:1", Address{"tcp", "127.9.9.9:1"}, true},
		{"[::ffff:127.0.0.1]:1", Address{"tcp", "[::ffff:127.0.0.1]:1"}, true},
		{"0.0.0.0:1", Address{"tcp", "0.0.0.0:1"}, false},
		{"[::]:1", Address{"tcp", "[::]:1"}, false},
		{"10.0.0.1:1", Address{"tcp", "10.0.0.1:1"}, false},
		{"unix:run/x.sock", Address{"unix", "run/x.sock"}, true},
	} {
		got, err := ParseAddress(test.in)
		if err != nil || got != test.want || got.Local() != test.local {
			t.Errorf("%s: %+v %v, local %v", test.in, got, err, got.Local())
		}
		if again, err := ParseAddress(got.String()); err != nil || again != got {
			t.Errorf("%s: %s reads as %+v, %v", test.in, got, again, err)
		}
	}
	for _, in := range []string{"", ":80", "80", "host.example:80", "127.0.0.1:http", "127.0.0.1:-1", "127.0.0.1:65536", "[fe80::1%eth0]:1", "unix:", "unix:\x00x", "/run/x.sock"} {
		if got, err := ParseAddress(in); err == nil {
			t.Errorf("%q is taken for %+v", in, got)
		}
	}
}
