package policytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// Questions makes questions of descriptions. It is safe for concurrent use.
//
// A description is a JSON object:
//
//	who                        a role, or an object with members of input.subject; type is user where it is not said
//	calls | reads | gets       SERVER/TOOL, SERVER/URI or SERVER/PROMPT
//	with                       the arguments
//	annotations, title, tags, digest, drift, findings, claimed
//	                           what is different about the item: annotations member by member, all else as a whole
//	endpoint, era, revision, client_address, request_id, round, time, labels, lost
//	                           as in input.context; what is not said is what [defaults] says, always the same; lost adds labels
type Questions struct {
	// Catalog is where items come from; nil for none. Then the item's annotations have to be in the description.
	Catalog *catalog.Directory
	// Labels names every label that the policy can give: whoever's labels are lost counts as marked with all of them, as in the gateway.
	// Nil is none.
	Labels func() ([]string, error)
	// Plain makes items that are in no catalog: without annotations, and without claims.
	Plain bool
}

// defaults is a call's context where a description does not say it. The time is fixed, so that a test does not depend on the day.
func defaults() policy.Context {
	return policy.Context{
		Endpoint: "test", Era: "modern", Revision: string(mcp.R20260728), ClientAddress: "127.0.0.1", RequestID: "test",
		Time: time.Date(2026, time.January, 1, 12, 0, 0, 0, time.UTC),
	}
}

// memberError is a fault of one member of a description.
type memberError struct {
	member string
	err    error
}

func (e *memberError) Error() string { return e.member + ": " + e.err.Error() }
func (e *memberError) Unwrap() error { return e.err }

// maxDepth bounds the nesting of descriptions, as the gateway's reader does that of messages.
const maxDepth = 64

// JSON is the question that a description is about, as the text that [policy.Question.AppendJSON] writes.
func (m *Questions) JSON(description []byte) ([]byte, error) {
	q, err := m.Question(description, false)
	if err != nil {
		return nil, err
	}
	return q.AppendJSON(nil), nil
}

// Question is the question that a description is about. With list it is about the item in a list: it may be a template, without a URI.
func (m *Questions) Question(description []byte, list bool) (*policy.Question, error) {
	o, err := jsonrpc.Parse(description, jsonrpc.Limits{Depth: maxDepth})
	if err != nil {
		return nil, fmt.Errorf("the description cannot be read: %w", err)
	}
	q := &policy.Question{Context: defaults()}
	own := catalog.Item{} // what the description says of the item
	said := map[string]bool{}
	var kind catalog.Kind
	var named, verb string
	for _, member := range o.Members {
		said[member.Name] = true
		if err := m.member(member, q, &own, &kind, &named, &verb); err != nil {
			return nil, &memberError{member.Name, err}
		}
	}
	switch {
	case q.Subject == nil:
		return nil, errors.New("who calls is missing: add who, a role or an object with members of input.subject")
	case verb == "":
		return nil, errors.New("what is asked for is missing: add calls: SERVER/TOOL, reads: SERVER/URI or gets: SERVER/PROMPT")
	case verb == "reads" && said["with"]:
		return nil, &memberError{"with", errors.New("a resource is read without arguments")}
	}
	q.Action = map[catalog.Kind]string{catalog.Tool: mcp.MethodToolsCall, catalog.Resource: mcp.MethodResourcesRead, catalog.Prompt: mcp.MethodPromptsGet}[kind]
	if q.Context.LabelsLost && m.Labels != nil {
		all, err := m.Labels()
		if err != nil {
			return nil, &memberError{"lost", err}
		}
		labels := slices.Concat(q.Context.Labels, all)
		slices.Sort(labels)
		q.Context.Labels = slices.Compact(labels)
	}
	server, name, _ := strings.Cut(named, "/")
	if server == "" || name == "" {
		return nil, &memberError{verb, fmt.Errorf("%q is not SERVER/NAME", named)}
	}
	item, err := m.item(server, kind, name, said["annotations"], list)
	if err != nil {
		return nil, &memberError{verb, err}
	}
	if kind == catalog.Resource && item.Name != name { // a template
		q.URI = name
	}
	if q.Item, err = with(item, &own, said); err != nil {
		return nil, &memberError{"annotations", err}
	}
	return q, nil
}

// member reads one member of a description.
func (m *Questions) member(v jsonrpc.Member, q *policy.Question, own *catalog.Item, kind *catalog.Kind, named, verb *string) (err error) {
	c := &q.Context
	switch v.Name {
	case "who":
		q.Subject, err = who(v.Value)
	case "calls", "reads", "gets":
		if *verb != "" {
			return fmt.Errorf("a test is about one thing, and %s stands there as well", *verb)
		}
		*verb = v.Name
		*kind = map[string]catalog.Kind{"calls": catalog.Tool, "reads": catalog.Resource, "gets": catalog.Prompt}[v.Name]
		err = text(v.Value, named)
	case "with":
		err = object(v.Value, &q.Arguments)
	case "annotations":
		err = object(v.Value, &own.Annotations)
	case "claimed":
		err = object(v.Value, &own.Claimed)
	case "title":
		err = text(v.Value, &own.Title)
	case "tags":
		err = texts(v.Value, &own.Tags)
	case "digest":
		err = text(v.Value, &own.Digest)
	case "drift":
		err = oneOf(v.Value, &own.Drift, "", "new", "changed")
	case "findings":
		err = texts(v.Value, &own.Findings)
		for _, f := range own.Findings {
			if !slices.Contains(catalog.Findings, f) {
				return unknown(f, catalog.Findings)
			}
		}
	case "endpoint":
		err = text(v.Value, &c.Endpoint)
	case "era":
		err = oneOf(v.Value, &c.Era, "modern", "legacy")
	case "revision":
		err = text(v.Value, &c.Revision)
	case "client_address":
		err = text(v.Value, &c.ClientAddress)
	case "request_id":
		err = text(v.Value, &c.RequestID)
	case "labels":
		err = texts(v.Value, &c.Labels)
	case "lost":
		if k := v.Value.Kind(); k != 't' && k != 'f' || json.Unmarshal(v.Value.Raw, &c.LabelsLost) != nil {
			err = errors.New("want true or false")
		}
	case "round":
		if v.Value.Kind() != '0' || json.Unmarshal(v.Value.Raw, &c.Round) != nil || c.Round < 0 {
			err = errors.New("want a whole number from 0")
		}
	case "time":
		var s string
		if err = text(v.Value, &s); err == nil {
			if c.Time, err = time.Parse(time.RFC3339Nano, s); err != nil {
				err = fmt.Errorf("%q is no time as in 2026-03-01T12:00:00Z", s)
			}
		}
	default:
		err = unknown(v.Name, descriptionMembers)
	}
	return err
}

// descriptionMembers are the members of a description, in the order in which people write them.
var descriptionMembers = []string{
	"who", "calls", "reads", "gets", "with", "annotations", "title", "tags", "digest", "drift", "findings", "claimed",
	"endpoint", "era", "revision", "client_address", "request_id", "round", "time", "labels", "lost",
}

func unknown(name string, known []string) error {
	if near := nearest(name, known); near != "" {
		return fmt.Errorf("there is no such name; did you mean %s?", near)
	}
	return fmt.Errorf("there is no such name; there are: %s", strings.Join(known, ", "))
}

// who reads a role or a subject.
func who(v jsonrpc.Value) (*identity.Principal, error) {
	if role, ok := v.Str(); ok {
		if role == "" {
			return nil, errors.New("want a role, or an object with members of input.subject")
		}
		return &identity.Principal{Type: identity.User, ID: role, Roles: []string{role}}, nil
	}
	o, err := jsonrpc.Parse(v.Raw, jsonrpc.Limits{Depth: maxDepth})
	if err != nil {
		return nil, errors.New("want a role, or an object with members of input.subject")
	}
	p := &identity.Principal{Type: identity.User}
	for _, m := range o.Members {
		var err error
		switch m.Name {
		case "type":
			err = oneOf(m.Value, &p.Type, identity.User, identity.Service, identity.Anonymous)
		case "id":
			err = text(m.Value, &p.ID)
		case "issuer":
			err = text(m.Value, &p.Issuer)
		case "client":
			err = text(m.Value, &p.Client)
		case "tenant":
			err = text(m.Value, &p.Tenant)
		case "roles":
			err = texts(m.Value, &p.Roles)
		case "scopes":
			err = texts(m.Value, &p.Scopes)
		case "claims":
			err = object(m.Value, &p.Claims)
		default:
			err = unknown(m.Name, []string{"type", "id", "issuer", "client", "tenant", "roles", "scopes", "claims"})
		}
		if err != nil {
			return nil, &memberError{m.Name, err}
		}
	}
	return p, nil
}

// item finds the item in the catalog, or makes one where that is wanted.
func (m *Questions) item(server string, kind catalog.Kind, name string, described, list bool) (*catalog.Item, error) {
	if m.Catalog != nil {
		i := m.Catalog.Find(server, kind, name)
		if kind == catalog.Resource && (i == nil || i.Name != name) {
			if t := m.Catalog.Find(server, catalog.Template, name); t != nil {
				if !list {
					return nil, fmt.Errorf("%s is a template; a read names a URI that it matches", name)
				}
				i = t
			}
		}
		if i != nil {
			return i, nil
		}
	}
	switch {
	case m.Plain, m.Catalog == nil && described:
		return &catalog.Item{Server: server, Kind: kind, Name: name}, nil
	case m.Catalog == nil:
		return nil, fmt.Errorf("there is no catalog to take %s/%s from: save one with mcpgw catalog --save FILE and name it with --catalog, "+
			"or give the item's annotations in the test, or test with --no-catalog", server, name)
	case !slices.Contains(m.Catalog.Servers(), server):
		return nil, fmt.Errorf("there is no server %s in the catalog%s", server, hint(server, m.Catalog.Servers()))
	}
	names := m.Catalog.Names(server, kind)
	if kind == catalog.Resource {
		names = append(names, m.Catalog.Names(server, catalog.Template)...)
	}
	return nil, fmt.Errorf("there is no %s %s/%s in the catalog%s", kind, server, name, hint(name, names))
}

// hint says what there is instead.
func hint(name string, names []string) string {
	if near := nearest(name, names); near != "" {
		return "; did you mean " + near + "?"
	}
	if len(names) == 0 {
		return ""
	}
	const most = 12
	more := ""
	if len(names) > most {
		names, more = names[:most], ", …"
	}
	return "; there are: " + strings.Join(names, ", ") + more
}

// nearest is the name that another was probably meant to be, or empty.
func nearest(name string, names []string) string {
	best, distance := "", 3
	if len(name) > 128 {
		return ""
	}
	for _, n := range names {
		if d := levenshtein.ComputeDistance(name, n); d < distance && d*2 < len(n) {
			best, distance = n, d
		}
	}
	return best
}

// with is an item with what a description says of it.
func with(i, own *catalog.Item, said map[string]bool) (*catalog.Item, error) {
	out := &catalog.Item{
		Server: i.Server, Kind: i.Kind, Name: i.Name, Title: i.Title, Annotations: i.Annotations, Claimed: i.Claimed, Tags: i.Tags,
		Digest: i.Digest, Drift: i.Drift, Findings: i.Findings,
	}
	changed := false
	for member, take := range map[string]func(){
		"title": func() { out.Title = own.Title }, "tags": func() { out.Tags = own.Tags }, "digest": func() { out.Digest = own.Digest },
		"drift": func() { out.Drift = own.Drift }, "findings": func() { out.Findings = own.Findings }, "claimed": func() { out.Claimed = own.Claimed },
		"annotations": func() {},
	} {
		if said[member] {
			changed = true
			take()
		}
	}
	if !changed {
		return i, nil // the catalog's own, so that what the engine keeps with it serves every test
	}
	if !said["annotations"] {
		return out, nil
	}
	merged, err := merge(i.Annotations, own.Annotations)
	out.Annotations = merged
	return out, err
}

// merge is an object with the members of another one over its own.
func merge(under, over []byte) ([]byte, error) {
	if len(under) == 0 {
		return over, nil
	}
	a, err := jsonrpc.Parse(under, jsonrpc.Limits{Depth: maxDepth})
	if err != nil {
		return nil, err
	}
	b, err := jsonrpc.Parse(over, jsonrpc.Limits{Depth: maxDepth})
	if err != nil {
		return nil, err
	}
	members := slices.Clone(b.Members)
	for _, m := range a.Members {
		if !b.Get(m.Name).Exists() {
			members = append(members, m)
		}
	}
	out := []byte{'{'}
	for n, m := range members {
		if n > 0 {
			out = append(out, ',')
		}
		out = append(append(jsonrpc.AppendString(out, m.Name), ':'), m.Value.Raw...)
	}
	return append(out, '}'), nil
}

func text(v jsonrpc.Value, into *string) error {
	s, ok := v.Str()
	if !ok {
		return errors.New("want a text")
	}
	*into = s
	return nil
}

func texts(v jsonrpc.Value, into *[]string) error {
	var list []*string // a null is nil
	if v.Kind() != '[' || json.Unmarshal(v.Raw, &list) != nil || slices.Contains(list, nil) {
		return errors.New("want a list of texts")
	}
	*into = make([]string, len(list))
	for i, s := range list {
		(*into)[i] = *s
	}
	return nil
}

func object(v jsonrpc.Value, into *[]byte) error {
	if v.Kind() != '{' {
		return errors.New("want an object")
	}
	*into = slices.Clone(v.Raw)
	return nil
}

func oneOf(v jsonrpc.Value, into *string, words ...string) error {
	var s string
	if err := text(v, &s); err != nil || !slices.Contains(words, s) {
		quoted := make([]string, len(words))
		for i, w := range words {
			quoted[i] = fmt.Sprintf("%q", w)
		}
		return fmt.Errorf("want one of %s", strings.Join(quoted, ", "))
	}
	*into = s
	return nil
}
