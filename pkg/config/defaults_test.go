package config

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// open is a configuration in which everything is there and says nothing.
func open() *configv1.Config {
	return &configv1.Config{
		Listeners: []*configv1.Listener{{Address: "0.0.0.0:8080"}},
		Servers: []*configv1.Server{
			{Name: "a", Transport: &configv1.Server_Http{Http: &configv1.HTTPTransport{Credential: &configv1.Credential{}}}},
			{Name: "b", Transport: &configv1.Server_Stdio{Stdio: &configv1.StdioTransport{}}},
		},
		Policy: &configv1.Policy{
			Bundle: &configv1.Bundle{Verification: &configv1.Verification{}}, Shadow: &configv1.Shadow{}, DecisionLog: &configv1.DecisionLog{},
		},
		Authentication: &configv1.Authentication{
			ApiKeys: []*configv1.APIKey{{}},
			Jwt:     []*configv1.JWTIssuer{{}},
		},
		Telemetry: &configv1.Telemetry{Otlp: &configv1.OTLP{}},
	}
}

var (
	messageLine = regexp.MustCompile(`^message (\w+) `)
	fieldLine   = regexp.MustCompile(`^  +(?:optional |repeated )?[\w.]+ (\w+) = \d+`)
	defaultText = regexp.MustCompile("Default: ([^\\s`]+?)[.,;]?( |$)")
)

// TestDefaultsAreWhatTheCommentsSay compares each plain value behind "Default:"
// in the protos with what Defaulted writes. Prose is left to the other tests.
func TestDefaultsAreWhatTheCommentsSay(t *testing.T) {
	messages := map[string]protoreflect.Message{}
	var gather func(protoreflect.Message)
	gather = func(m protoreflect.Message) {
		messages[string(m.Descriptor().Name())] = m
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case f.Message() == nil || f.IsMap():
			case f.IsList():
				for i := range v.List().Len() {
					gather(v.List().Get(i).Message())
				}
			default:
				gather(v.Message())
			}
			return true
		})
	}
	gather(Defaulted(open()).ProtoReflect())

	files, err := filepath.Glob("../../proto/mcpgw/config/v1/*.proto")
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		message, comment := "", ""
		for line := range strings.Lines(string(text)) {
			line = strings.TrimRight(line, "\n")
			if m := messageLine.FindStringSubmatch(line); m != nil {
				message = m[1]
			}
			if words, ok := strings.CutPrefix(strings.TrimSpace(line), "//"); ok {
				comment += words
				continue
			}
			m, d := fieldLine.FindStringSubmatch(line), defaultText.FindStringSubmatch(comment)
			comment = ""
			if m == nil || d == nil {
				continue
			}
			value := messages[message]
			if value == nil {
				continue
			}
			got, plain := plainValue(value, value.Descriptor().Fields().ByName(protoreflect.Name(m[1])), d[1])
			if !plain {
				continue
			}
			compared++
			if got != d[1] {
				t.Errorf("%s.%s is %s, the comment says %s", message, m[1], got, d[1])
			}
		}
	}
	if compared < 39 {
		t.Errorf("only %d defaults were found in the comments", compared)
	}
}

// plainValue writes a field as its comment would; false where the comment is prose.
func plainValue(m protoreflect.Message, field protoreflect.FieldDescriptor, comment string) (string, bool) {
	v := m.Get(field)
	switch {
	case field.IsList() || field.IsMap():
		return "", false
	case field.Message() != nil:
		d, ok := v.Message().Interface().(*durationpb.Duration)
		want, err := time.ParseDuration(comment)
		if ok && err == nil && d.AsDuration() == want {
			return comment, true
		}
		return fmt.Sprint(d.AsDuration()), ok && err == nil
	case field.Kind() == protoreflect.StringKind:
		return v.String(), v.String() != ""
	default:
		return v.String(), true
	}
}

func TestDefaults(t *testing.T) {
	c := Defaulted(open())
	if c.Listeners[0].Name != "default" || len(c.Listeners[0].AllowedHosts) != 0 {
		t.Error(c.Listeners[0])
	}
	if e := c.Endpoints[0]; e.Name != "mcp" || e.Path != "/mcp" || len(e.Servers) != 1 || e.Servers[0].Server != "*" {
		t.Error(e)
	}
	if k := c.Servers[0].GetHttp().Credential; k.Header != "authorization" || k.GetPrefix() != "Bearer " {
		t.Error(k)
	}
	if got := c.Authentication.Jwt[0].Algorithms; !cmp.Equal(got, []string{"RS256", "ES256", "EdDSA"}) {
		t.Error(got)
	}

	given := open()
	given.Servers[0].GetHttp().Credential.Header = "x-key"
	given.Limits = &configv1.Limits{CallIdle: durationpb.New(time.Minute)}
	given.Telemetry.Otlp.SamplingPercent = proto.Float64(0)
	before := proto.CloneOf(given)
	c = Defaulted(given)
	if !proto.Equal(given, before) {
		t.Error("Defaulted changes what it was given")
	}
	if k := c.Servers[0].GetHttp().Credential; k.GetPrefix() != "" || k.Prefix == nil {
		t.Error("another header gets a prefix:", k)
	}
	if got := c.Servers[1].Timeouts.CallIdle.AsDuration(); got != time.Minute {
		t.Error("a server's call_idle is", got)
	}
	if c.Telemetry.Otlp.GetSamplingPercent() != 0 {
		t.Error("a sampling of 0 is taken for none")
	}
	if !proto.Equal(Defaulted(c), c) {
		t.Error("Defaulted twice is not Defaulted once")
	}
}

func TestAllowedHosts(t *testing.T) {
	for _, test := range []struct {
		address, public string
		hosts, want     []string
	}{
		{"127.0.0.1:1", "", nil, []string{"localhost", "127.0.0.1", "::1"}},
		{"[::1]:1", "https://Mcp.example.org:8443", nil, []string{"localhost", "127.0.0.1", "::1", "mcp.example.org"}},
		{"0.0.0.0:1", "https://mcp.example.org", nil, []string{"mcp.example.org"}},
		{"0.0.0.0:1", "", nil, nil},
		{"0.0.0.0:1", "https://mcp.example.org", []string{"a.example"}, []string{"a.example", "mcp.example.org"}},
		{"unix:x", "", nil, nil},
	} {
		l := &configv1.Listener{Address: test.address, PublicUrl: test.public, AllowedHosts: test.hosts}
		setListener(l)
		if diff := cmp.Diff(test.want, l.AllowedHosts); diff != "" {
			t.Errorf("%+v: %s", test, diff)
		}
	}
}
