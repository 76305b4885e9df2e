package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/identity"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// entry is one server as desktop clients write it.
type entry struct {
	Command  string            `json:"command"`
	Args     []string          `json:"args"`
	Env      map[string]string `json:"env"`
	Cwd      string            `json:"cwd"`
	Type     string            `json:"type"`
	URL      string            `json:"url"`
	Headers  map[string]string `json:"headers"`
	Disabled bool              `json:"disabled"`
}

var entryFields = []string{"command", "args", "env", "cwd", "type", "url", "headers", "disabled"}

// ImportMCPServers reads the JSON in which desktop clients keep their servers
// (`{"mcpServers": {NAME: {"command": …} or {"url": …}}}`; `servers` is taken
// for `mcpServers`). The configuration it returns is a whole one for this
// machine alone: the servers in their order, one loopback listener without
// credentials, one endpoint, and policies in ./policies. It is neither
// defaulted nor checked: [Marshal] and [Parse] do that.
//
// A name that is not in the grammar is brought into it. What was changed, left
// out, or ought to be moved is a warning; two names that become one, and what
// cannot be read, are errors, all of them at once.
func ImportMCPServers(data []byte) (*configv1.Config, []string, error) {
	if len(data) > MaxBytes {
		return nil, nil, fmt.Errorf("is larger than %d bytes", MaxBytes)
	}
	var file map[string]jsontext.Value
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, nil, fmt.Errorf("is not a JSON object: %w", err)
	}
	servers, ok := file["mcpServers"]
	if !ok {
		servers, ok = file["servers"]
	}
	if !ok {
		return nil, nil, errors.New("has no member mcpServers")
	}
	im := &importer{names: map[string]string{}}
	if err := im.servers(servers); err != nil {
		return nil, nil, fmt.Errorf("mcpServers is not an object of servers: %w", err)
	}
	if err := errors.Join(im.errs...); err != nil {
		return nil, nil, err
	}
	perServer := &configv1.Endpoint{Name: "mcp", Path: "/mcp", PerServer: true}
	return &configv1.Config{
		Listeners: []*configv1.Listener{{Address: "127.0.0.1:8080", Anonymous: &configv1.Anonymous{Roles: []string{"local"}}}},
		Servers:   im.list,
		Endpoints: []*configv1.Endpoint{perServer},
		Policy:    &configv1.Policy{Directory: "policies"},
	}, im.warnings, nil
}

type importer struct {
	list     []*configv1.Server
	names    map[string]string // ours → theirs
	warnings []string
	errs     []error
}

func (im *importer) warn(server, format string, args ...any) {
	im.warnings = append(im.warnings, fmt.Sprintf("%q: ", server)+fmt.Sprintf(format, args...))
}

func (im *importer) fail(server, format string, args ...any) {
	im.errs = append(im.errs, fmt.Errorf("%q: "+format, append([]any{server}, args...)...))
}

// servers reads the members in their order, which decides who owns a name that
// two servers claim.
func (im *importer) servers(object jsontext.Value) error {
	d := jsontext.NewDecoder(bytes.NewReader(object))
	if token, err := d.ReadToken(); err != nil || token.Kind() != '{' {
		return errors.Join(err, errors.New("want an object"))
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			return err
		}
		theirs := name.String()
		value, err := d.ReadValue()
		if err != nil {
			return err
		}
		im.server(theirs, value)
	}
	_, err := d.ReadToken()
	return err
}

func (im *importer) server(theirs string, value jsontext.Value) {
	var e entry
	var members map[string]jsontext.Value
	if err := errors.Join(json.Unmarshal(value, &members), json.Unmarshal(value, &e)); err != nil {
		im.fail(theirs, "cannot be read: %w", err)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if !slices.Contains(entryFields, name) {
			im.warn(theirs, "%s is left out", name)
		}
	}
	if e.Disabled {
		im.warn(theirs, "is disabled, and left out")
		return
	}
	ours := serverName(theirs)
	if other, taken := im.names[ours]; taken {
		im.fail(theirs, "becomes %s, as %q does; rename one", ours, other)
		return
	}
	im.names[ours] = theirs
	if ours != theirs {
		im.warn(theirs, "is called %s", ours)
	}
	s := &configv1.Server{Name: ours}
	switch {
	case e.Command != "" && e.URL != "":
		im.fail(theirs, "has both command and url; keep one")
	case e.Type == "sse":
		im.warn(theirs, "speaks the old HTTP+SSE transport, and is left out; use its streamable HTTP URL")
		return
	case e.Command != "":
		s.Transport = &configv1.Server_Stdio{Stdio: im.stdio(theirs, e)}
	case e.URL != "":
		s.Transport = &configv1.Server_Http{Http: im.http(theirs, e)}
	default:
		im.fail(theirs, "has neither command nor url; add one")
	}
	im.list = append(im.list, s)
}

func (im *importer) stdio(server string, e entry) *configv1.StdioTransport {
	p := &configv1.StdioTransport{Command: e.Command, Args: e.Args, Cwd: e.Cwd}
	for _, name := range slices.Sorted(maps.Keys(e.Env)) {
		if p.Env == nil {
			p.Env = map[string]*configv1.Value{}
		}
		p.Env[name] = im.value(server, name, e.Env[name])
	}
	for _, text := range append([]string{e.Command, e.Cwd}, e.Args...) {
		if strings.Contains(text, "${") {
			im.warn(server, "%s is taken as it stands; nothing is put in for ${…}", text)
		}
	}
	return p
}

func (im *importer) http(server string, e entry) *configv1.HTTPTransport {
	h := &configv1.HTTPTransport{Url: e.URL}
	for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
		text := e.Headers[name]
		if m := prefixedVariable.FindStringSubmatch(text); m != nil && h.Credential == nil {
			h.Credential = &configv1.Credential{
				Header: strings.ToLower(name),
				Prefix: &m[1],
				From:   &configv1.SecretSource{Source: &configv1.SecretSource_Env{Env: m[2]}},
			}
			continue
		}
		if h.Headers == nil {
			h.Headers = map[string]*configv1.Value{}
		}
		h.Headers[strings.ToLower(name)] = im.value(server, name, text)
	}
	return h
}

var (
	variable         = regexp.MustCompile(`^\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)\}$`)
	prefixedVariable = regexp.MustCompile(`^([A-Za-z]+ )\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)\}$`)
)

// value turns ${NAME} into a reference to the variable.
func (im *importer) value(server, name, text string) *configv1.Value {
	if m := variable.FindStringSubmatch(text); m != nil {
		return &configv1.Value{Source: &configv1.Value_Env{Env: m[1]}}
	}
	switch {
	case strings.Contains(text, "${"):
		im.warn(server, "%s is taken as it stands; nothing is put in for ${…}", name)
	case identity.NamesCredential(name) || strings.HasSuffix(strings.ToLower(name), "_key"):
		im.warn(server, "%s looks like a secret; move it to a file or the environment, and write `file` or `env` for `value`", name)
	}
	return &configv1.Value{Source: &configv1.Value_Value{Value: text}}
}

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// serverName brings a name into the grammar: lower case, every run of other
// characters one hyphen, 32 characters.
func serverName(name string) string {
	name = strings.Trim(notInName.ReplaceAllString(strings.ToLower(name), "-"), "-")
	name = strings.TrimRight(name[:min(len(name), 32)], "-")
	if name == "" {
		return "server"
	}
	return name
}
