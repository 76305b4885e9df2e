package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/yosida95/uritemplate/v3"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// Bounds of one definition. The name bounds are the specification's where it has one (2026-07-28, "Tools").
const (
	maxDefinition = 256 << 10
	maxDepth      = 64
	maxName       = 128  // bytes of a tool's or prompt's name
	maxURI        = 4096 // bytes of a URI
	maxTemplate   = 2048 // bytes of a uriTemplate
)

// Trust says which words about a server's items count for policy.
type Trust struct {
	// Annotations lets the server's own annotations count.
	Annotations bool
	// Set holds the operator's annotations, a JSON object by item name. They always count, and win member by member.
	Set map[string]json.RawMessage
	// Tags are the operator's, for every item of the server.
	Tags []string
}

// shapes are the members whose JSON type a client may insist on; it would refuse the whole list for one that is wrong.
var shapes = map[string]byte{
	"name": '"', "title": '"', "description": '"', "uri": '"', "uriTemplate": '"', "mimeType": '"', "size": '0',
	"inputSchema": '{', "outputSchema": '{', "annotations": '{', "_meta": '{', "icons": '[', "arguments": '[',
}

// NewItem reads one definition of a server's list. The error says why a client could not accept the item, in words
// for the operator; the item is then quarantined. The definition is copied: it often is a part of a whole list, which would
// otherwise live as long as the item.
func NewItem(server string, kind Kind, definition []byte, trust Trust) (*Item, error) {
	left := fullPatience
	return newItem(server, kind, definition, trust, &left)
}

func newItem(server string, kind Kind, definition []byte, trust Trust, left *patience) (*Item, error) {
	if len(definition) > maxDefinition {
		return nil, fmt.Errorf("the definition has %d bytes, more than %d", len(definition), maxDefinition)
	}
	definition = bytes.Clone(definition)
	o, err := jsonrpc.Parse(definition, jsonrpc.Limits{Depth: maxDepth})
	if err != nil {
		return nil, fmt.Errorf("the definition cannot be read: %w", err)
	}
	if err := wellShaped(o); err != nil {
		return nil, err
	}
	i := &Item{Server: server, Kind: kind, Definition: definition, Title: text(o, "title"), pin: &pin{}}
	switch kind {
	case Tool:
		err = i.tool(o)
	case Resource:
		err = i.resource(o)
	case Template:
		err = i.template(o)
	case Prompt:
		err = i.prompt(o)
	default:
		err = errors.New("no such kind")
	}
	if err != nil {
		return nil, err
	}
	claims := o.Get("annotations")
	if i.Title == "" && kind == Tool && claims.Exists() {
		if a, err := jsonrpc.Parse(claims.Raw, jsonrpc.Limits{}); err == nil {
			i.Title = text(a, "title")
		}
	}
	i.Claimed = claimed(i.Title, o)
	if i.Annotations, err = counted(claims.Raw, trust, i.Name); err != nil {
		return nil, err
	}
	i.Tags = slices.Clone(trust.Tags)
	sum := sha256.Sum256(definition)
	i.Digest = hex.EncodeToString(sum[:])
	i.Findings = i.findings(left)
	return i, nil
}

func wellShaped(o jsonrpc.Object) error {
	for _, m := range o.Members {
		want, known := shapes[m.Name]
		if !known {
			for name := range shapes {
				if strings.EqualFold(name, m.Name) { // some clients decode without regard to case
					return fmt.Errorf("member %q differs only in case from %q", m.Name, name)
				}
			}
			continue
		}
		if got := byte(m.Value.Kind()); got != want {
			return fmt.Errorf("member %q has the wrong type", m.Name)
		}
	}
	return nil
}

func (i *Item) tool(o jsonrpc.Object) error {
	i.Name = text(o, "name")
	if err := checkName(i.Name); err != nil {
		return err
	}
	if !toolName(i.Name) {
		return errors.New("the name has characters other than letters, digits, dot, hyphen and underscore")
	}
	schema := o.Get("inputSchema")
	if !schema.Exists() {
		return errors.New("inputSchema is missing")
	}
	s, err := jsonrpc.Parse(schema.Raw, jsonrpc.Limits{})
	if err != nil {
		return fmt.Errorf("inputSchema: %w", err)
	}
	if text(s, "type") != "object" {
		return errors.New(`inputSchema is not of type "object"`)
	}
	i.InputSchema = schema.Raw
	i.Headers, err = mcp.ParamHeaders(schema.Raw)
	return err
}

func (i *Item) resource(o jsonrpc.Object) error {
	if i.Name = text(o, "uri"); i.Name == "" {
		return errors.New("uri is missing")
	}
	if !o.Get("name").Exists() {
		return errors.New("name is missing")
	}
	return checkURI(i.Name)
}

func (i *Item) template(o jsonrpc.Object) error {
	if i.Name = text(o, "uriTemplate"); i.Name == "" {
		return errors.New("uriTemplate is missing")
	}
	if !o.Get("name").Exists() {
		return errors.New("name is missing")
	}
	if len(i.Name) > maxTemplate {
		return fmt.Errorf("uriTemplate has more than %d bytes", maxTemplate)
	}
	if _, err := uritemplate.New(i.Name); err != nil {
		return errors.New("uriTemplate is not a template of RFC 6570")
	}
	return nil
}

func (i *Item) prompt(o jsonrpc.Object) error {
	i.Name = text(o, "name")
	return checkName(i.Name)
}

func checkName(s string) error {
	switch {
	case s == "":
		return errors.New("name is missing or empty")
	case len(s) > maxName:
		return fmt.Errorf("the name has %d bytes, more than %d", len(s), maxName)
	case strings.ContainsFunc(s, control):
		return errors.New("the name has control characters")
	}
	return nil
}

// checkURI asks for what RFC 3986 asks at least: a scheme, and no spaces or control characters.
func checkURI(s string) error {
	scheme, _, ok := strings.Cut(s, ":")
	switch {
	case len(s) > maxURI:
		return fmt.Errorf("uri has %d bytes, more than %d", len(s), maxURI)
	case !ok || !schemeName(scheme):
		return errors.New("uri has no scheme")
	case strings.ContainsFunc(s, control) || strings.Contains(s, " "):
		return errors.New("uri has spaces or control characters")
	}
	return nil
}

func schemeName(s string) bool {
	for n := range len(s) {
		c := s[n] | 0x20
		if c >= 'a' && c <= 'z' || n > 0 && (s[n] >= '0' && s[n] <= '9' || strings.IndexByte("+-.", s[n]) >= 0) {
			continue
		}
		return false
	}
	return s != ""
}

func control(r rune) bool { return r < 0x20 || r == 0x7f }

// toolName reports whether s is made of the characters that a tool's name may have.
func toolName(s string) bool {
	for n := range len(s) {
		c := s[n]
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '.' || c == '-' {
			continue
		}
		return false
	}
	return true
}

// claimed is what the server says of its item, for policies that read claims as claims.
func claimed(title string, o jsonrpc.Object) []byte {
	out := []byte{'{'}
	add := func(name string, raw []byte) {
		if len(raw) == 0 {
			return
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(jsonrpc.AppendString(out, name), ':'), raw...)
	}
	add("annotations", o.Get("annotations").Raw)
	add("description", o.Get("description").Raw)
	if title != "" {
		add("title", jsonrpc.AppendString(nil, title))
	}
	return append(out, '}')
}

// counted merges the annotations that count: the server's where it is trusted, under the operator's.
func counted(server []byte, trust Trust, name string) ([]byte, error) {
	if !trust.Annotations {
		server = nil
	}
	set := trust.Set[name]
	if len(set) == 0 {
		return server, nil
	}
	own, err := jsonrpc.Parse(set, jsonrpc.Limits{})
	if err != nil {
		return nil, fmt.Errorf("the annotations configured for it are not a JSON object: %w", err)
	}
	if len(server) == 0 {
		return set, nil
	}
	theirs, err := jsonrpc.Parse(server, jsonrpc.Limits{})
	if err != nil {
		return nil, fmt.Errorf("annotations: %w", err)
	}
	out := []byte{'{'}
	add := func(m jsonrpc.Member) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(jsonrpc.AppendString(out, m.Name), ':'), m.Value.Raw...)
	}
	for _, m := range own.Members {
		add(m)
	}
	for _, m := range theirs.Members {
		if !own.Get(m.Name).Exists() {
			add(m)
		}
	}
	return append(out, '}'), nil
}

// same reports whether two items may stand for each other: equal in all that policy, lists and calls read.
func (i *Item) same(o *Item) bool {
	return i.Server == o.Server && i.Kind == o.Kind && i.Name == o.Name && i.Digest == o.Digest &&
		bytes.Equal(i.Annotations, o.Annotations) && slices.Equal(i.Tags, o.Tags) && i.Drift == o.Drift && slices.Equal(i.Findings, o.Findings)
}

func text(o jsonrpc.Object, name string) string {
	s, _ := o.Get(name).Str()
	return s
}

// nameMember is where a definition says what it defines.
var nameMember = [...]string{Tool: "name", Resource: "uri", Template: "uriTemplate", Prompt: "name"}

// label names a definition that did not become an item.
func label(kind Kind, definition []byte, n int) string {
	member := nameMember[kind]
	if len(definition) <= maxDefinition {
		if o, err := jsonrpc.Parse(definition, jsonrpc.Limits{}); err == nil && text(o, member) != "" {
			return clip(text(o, member))
		}
	}
	return "#" + strconv.Itoa(n+1)
}

// clip bounds what a server can put into a report.
func clip(s string) string {
	if len(s) > maxName {
		s = s[:maxName]
	}
	return strings.Map(func(r rune) rune {
		if control(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}
