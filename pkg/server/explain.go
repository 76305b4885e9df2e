package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"

	"github.com/mcpgw/mcpgw/pkg/admin"
	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/decision"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/policy"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// ExplainRequest is a call that nobody makes, and whose ruling is to be explained.
type ExplainRequest struct {
	As        string          `json:"as"`                  // the id of an API key, anonymous, or with Caller the subject of a token
	Caller    *SupposedCaller `json:"caller,omitempty"`    // where As is no key of the configuration
	Method    string          `json:"method"`              // tools/call, resources/read, prompts/get
	Name      string          `json:"name"`                // as a client writes it, or server/name
	Arguments json.RawMessage `json:"arguments,omitempty"` // an object
	Endpoint  string          `json:"endpoint,omitempty"`  // its path or name; empty: the first that has the name
	Era       string          `json:"era,omitempty"`       // modern or legacy; empty: modern where the server speaks it
	Labels    []string        `json:"labels,omitempty"`    // of the session
	Address   string          `json:"address,omitempty"`   // of the client
}

// SupposedCaller is who calls, in the words of a verified token.
type SupposedCaller struct {
	Type   string          `json:"type,omitempty"` // user (default) or service
	Issuer string          `json:"issuer,omitempty"`
	Client string          `json:"client,omitempty"`
	Tenant string          `json:"tenant,omitempty"`
	Roles  []string        `json:"roles,omitempty"`
	Scopes []string        `json:"scopes,omitempty"`
	Claims json.RawMessage `json:"claims,omitempty"` // an object
}

// ExplainReport is what `mcpgw explain` shows. It holds neither arguments nor claims, but for the values that rules read; see
// opa.Explanation.
type ExplainReport struct {
	ID       string           `json:"id,omitempty"` // of the decision; empty for a call that nobody made
	At       time.Time        `json:"at"`           // when it was ruled
	Caller   ExplainedCaller  `json:"caller"`
	Call     ExplainedCall    `json:"call"`
	Ruled    *ExplainedRuling `json:"ruled,omitempty"`    // as it was, for a call that was made
	Snapshot string           `json:"snapshot,omitempty"` // the world in which it was ruled
	Replaced bool             `json:"replaced,omitempty"` // another policy is in force by now
	Before   string           `json:"before,omitempty"`   // why the call is refused before policy is asked
	Note     string           `json:"note,omitempty"`     // what to know about the explanation, or why there is none

	Explanation *opa.Explanation `json:"explanation,omitempty"`
}

// ExplainedCaller is the principal, its claims excepted.
type ExplainedCaller struct {
	Type   string   `json:"type"`
	ID     string   `json:"id"`
	Issuer string   `json:"issuer,omitempty"`
	Client string   `json:"client,omitempty"`
	Tenant string   `json:"tenant,omitempty"`
	Roles  []string `json:"roles"`
	Scopes []string `json:"scopes,omitempty"`
}

// ExplainedCall is what was called, its arguments and the URI of a read excepted.
type ExplainedCall struct {
	Method   string       `json:"method"`
	Endpoint string       `json:"endpoint"`       // its configured name
	Path     string       `json:"path,omitempty"` // where a supposed call would go
	Era      string       `json:"era"`
	Kind     catalog.Kind `json:"kind"`
	Server   string       `json:"server"`
	Item     string       `json:"item"` // the origin's name
}

// ExplainedRuling is a ruling that was made.
type ExplainedRuling struct {
	Effect   policy.Effect   `json:"effect"`
	Reasons  []policy.Reason `json:"reasons"`
	Revision string          `json:"revision"`
	Cached   bool            `json:"cached"`
}

// keptForExplain is what policy.explain keeps.
type keptForExplain struct {
	recent decision.Recent
	busy   chan struct{} // holds one for each explanation under way
}

// explanations at a time: each may take as long as three rulings may.
const explanations = 2

func newKept() *keptForExplain { return &keptForExplain{busy: make(chan struct{}, explanations)} }

// keepRulings takes over how many rulings to keep. An engine that is kept for them alone gives up what it remembers.
func (s *Server) keepRulings(old, now *built) {
	x := now.config.Proto.Policy.GetExplain()
	s.kept.recent.Bound(int(x.GetKeep()), x.GetKeepFor().AsDuration())
	if old != nil && old.engine != nil && old.engine != now.engine {
		old.engine.Forget()
	}
}

func (s *Server) explainRoutes() []admin.Route {
	return []admin.Route{
		{Pattern: "GET /explain/{id}", May: "explain", Serve: s.explainID},
		{Pattern: "POST /explain", May: "explain", Serve: s.explainCall},
	}
}

// explainID explains a ruling that is kept, by the policy that ruled.
func (s *Server) explainID(w http.ResponseWriter, r *http.Request, operator string) {
	id := r.PathValue("id")
	kept := s.kept.recent.Get(id)
	if kept == nil {
		admin.Fail(w, http.StatusNotFound, unknownID(&s.kept.recent, id))
		return
	}
	s.log.Info("explained", "operator", operator, "decision_id", id)
	q, ruled := kept.Question, kept.Ruling
	report := &ExplainReport{
		ID: id, At: q.Context.Time, Caller: explainedCaller(q.Subject), Call: explainedCall(q), Snapshot: kept.Snapshot,
		Ruled: &ExplainedRuling{Effect: ruled.Effect, Reasons: slices.Concat([]policy.Reason{}, ruled.Reasons), Revision: ruled.Revision, Cached: ruled.Cached},
	}
	if b := s.now(); b != nil && b.engine != nil {
		report.Replaced = b.engine.Revision() != ruled.Revision
	}
	engine, ok := kept.Engine.(*opa.Engine)
	switch {
	case !ok:
		report.Note = "the engine that ruled cannot explain"
	case !kept.Whole():
		report.Note = fmt.Sprintf("the arguments of this call, %d bytes, were not kept: no more than %d are; ask with --as, and give them", kept.ArgumentBytes, decision.MaxArguments)
	default:
		s.answer(w, r, report, engine, q)
		return
	}
	admin.Write(w, report)
}

// answer explains, one of few at a time, and sends the report.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, report *ExplainReport, engine *opa.Engine, q *policy.Question) {
	select {
	case s.kept.busy <- struct{}{}:
		defer func() { <-s.kept.busy }()
	case <-r.Context().Done():
		return
	}
	if err := report.explain(r.Context(), engine, q); err != nil {
		admin.Fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	admin.Write(w, report)
}

func (r *ExplainReport) explain(ctx context.Context, e *opa.Engine, q *policy.Question) (err error) {
	if r.Explanation, err = e.Explain(ctx, q); err != nil {
		return err
	}
	if r.Ruled != nil && r.Explanation.Effect != r.Ruled.Effect {
		r.Note = "asked again, the same policy rules otherwise: it reads what changes by itself, or had no time to rule"
	}
	return nil
}

func unknownID(kept *decision.Recent, id string) string {
	number, age := kept.Bounds()
	if number == 0 {
		return "no rulings are kept: set policy.explain.keep"
	}
	if len(id) > 64 {
		id = id[:64] + "…"
	}
	return fmt.Sprintf("no ruling with the id %q is kept. The last %d are, for %v (policy.explain), and none from before a restart; "+
		"a call that is refused before policy is asked has no ruling, and its log line says why", id, number, age)
}

// explainCall explains a call that nobody makes, in the world of now.
func (s *Server) explainCall(w http.ResponseWriter, r *http.Request, operator string) {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	var req ExplainRequest
	if err := d.Decode(&req); err != nil {
		admin.Fail(w, http.StatusBadRequest, "the question cannot be read: "+err.Error())
		return
	}
	b, snap := s.now(), s.gateway.Snapshot()
	if b == nil || snap == nil {
		admin.Fail(w, http.StatusServiceUnavailable, "the gateway is starting")
		return
	}
	engine, ok := snap.Policy.(*opa.Engine)
	if !ok {
		admin.Fail(w, http.StatusInternalServerError, "the policy in force cannot explain")
		return
	}
	report, q, err := suppose(b.config.Proto, snap, &req)
	if err != nil {
		admin.Fail(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	s.log.Info("explained", "operator", operator, "principal", report.Caller.ID, "method", report.Call.Method, "server", report.Call.Server, "item", report.Call.Item)
	report.Snapshot = snap.Version()
	s.answer(w, r, report, engine, q)
}

// ExplainOffline explains a call that nobody makes, with the policy that a configuration names and the items of a saved catalog, or
// others that are described. What these say of themselves counts as it stands; their arguments are not held to a schema, which is not
// known.
func ExplainOffline(ctx context.Context, c *config.Config, items []*catalog.Item, req *ExplainRequest) (*ExplainReport, error) {
	engine, err := LoadPolicy(c.Proto.Policy)
	switch {
	case err != nil:
		return nil, err
	case engine == nil:
		return nil, errors.New("the policy comes from a bundle that cannot be had now; ask the running gateway")
	}
	byServer := map[string]*catalog.Source{}
	var sources []*catalog.Source
	for _, i := range items {
		if i.Definition == nil {
			i.Definition = definition(i)
		}
		src := byServer[i.Server]
		if src == nil {
			src = &catalog.Source{Server: i.Server, Modern: true, Legacy: true, Fetched: time.Now()}
			byServer[i.Server], sources = src, append(sources, src)
		}
		src.Items[i.Kind] = append(src.Items[i.Kind], i)
	}
	snap := &gateway.Snapshot{
		Settings: &gateway.Settings{Depth: int(c.Proto.Limits.GetDepth())}, Policy: engine, Catalog: catalog.Build(endpoints(c.Proto), sources, nil),
	}
	report, q, err := suppose(c.Proto, snap, req)
	if err != nil {
		return nil, err
	}
	return report, report.explain(ctx, engine, q)
}

// definition is what a catalog needs to serve an item whose definition is not known.
func definition(i *catalog.Item) []byte {
	b := []byte(`{"name":`)
	switch i.Kind {
	case catalog.Resource:
		b = append(b, `"","uri":`...)
	case catalog.Template:
		b = append(b, `"","uriTemplate":`...)
	}
	b = jsonrpc.AppendString(b, i.Name)
	if i.Kind == catalog.Tool {
		b = append(b, `,"inputSchema":{"type":"object"}`...)
	}
	return append(b, '}')
}

// SupposedItem describes an item for ExplainOffline. Without annotations it has those that the configuration sets.
func SupposedItem(c *config.Config, server string, kind catalog.Kind, name string, annotations map[string]json.RawMessage, tags []string) (*catalog.Item, error) {
	i := &catalog.Item{Server: server, Kind: kind, Name: name, Tags: tags}
	if len(annotations) > 0 {
		b, err := json.Marshal(annotations)
		if err != nil {
			return nil, err
		}
		i.Annotations = b
	}
	for _, srv := range c.Proto.Servers {
		if srv.Name != server {
			continue
		}
		t, err := trust(srv)
		if err != nil {
			return nil, err
		}
		if i.Annotations == nil {
			i.Annotations = t.Set[name]
		}
		if len(i.Tags) == 0 {
			i.Tags = t.Tags
		}
		return i, nil
	}
	var names []string
	for _, srv := range c.Proto.Servers {
		names = append(names, srv.Name)
	}
	return nil, fmt.Errorf("the configuration has no server %s; there are: %s", server, strings.Join(names, ", "))
}

// suppose finds caller, endpoint and item, and makes the question.
func suppose(c *configv1.Config, snap *gateway.Snapshot, req *ExplainRequest) (*ExplainReport, *policy.Question, error) {
	who, err := supposedCaller(c, req)
	if err != nil {
		return nil, nil, err
	}
	kinds, err := kindsOf(req.Method)
	if err != nil {
		return nil, nil, err
	}
	if req.Era != "" && req.Era != catalog.Modern.String() && req.Era != catalog.Legacy.String() {
		return nil, nil, fmt.Errorf("there is no era %q: modern or legacy", req.Era)
	}
	arguments := []byte(req.Arguments)
	if string(bytes.TrimSpace(arguments)) == "null" {
		arguments = nil
	}
	views, err := viewsOf(snap.Catalog, req.Endpoint)
	if err != nil {
		return nil, nil, err
	}
	v, public, modern := findItem(views, kinds, req.Name)
	if v == nil {
		return nil, nil, noItem(views, kinds, req)
	}
	q, refusal, err := snap.Suppose(gateway.Supposed{
		View: v, Caller: who, Method: req.Method, Name: public, Arguments: arguments, Legacy: req.Era == catalog.Legacy.String() || req.Era == "" && !modern,
	})
	switch {
	case errors.Is(err, gateway.ErrNoItem):
		return nil, nil, fmt.Errorf("modern clients do not see %s at %s: its server speaks to legacy clients alone; ask with --era legacy", public, v.Path)
	case err != nil:
		return nil, nil, fmt.Errorf("arguments: %w", err)
	}
	q.Context.Labels, q.Context.ClientAddress = slices.Sorted(slices.Values(req.Labels)), req.Address
	r := &ExplainReport{At: q.Context.Time, Caller: explainedCaller(who), Call: explainedCall(q)}
	r.Call.Path = v.Path
	if refusal != nil {
		r.Before = refusal.Message
	}
	return r, q, nil
}

// supposedCaller is the principal of an API key, of a listener without credentials, or as described.
func supposedCaller(c *configv1.Config, req *ExplainRequest) (*identity.Principal, error) {
	if d := req.Caller; d != nil {
		if req.As == "" {
			return nil, errors.New("a caller needs a name: --as")
		}
		p := &identity.Principal{Type: d.Type, ID: req.As, Issuer: d.Issuer, Client: d.Client, Tenant: d.Tenant, Roles: d.Roles, Scopes: d.Scopes}
		switch p.Type {
		case "":
			p.Type = identity.User
		case identity.User, identity.Service:
		default:
			return nil, fmt.Errorf("a caller of type %q: want %s or %s", p.Type, identity.User, identity.Service)
		}
		if len(d.Claims) > 0 {
			if _, err := jsonrpc.Parse(d.Claims, jsonrpc.Limits{}); err != nil {
				return nil, fmt.Errorf("claims: %w", err)
			}
			p.Claims = slices.Clone(d.Claims)
		}
		return p, nil
	}
	var known []string
	for _, k := range c.Authentication.GetApiKeys() {
		if k.Id == req.As {
			p := &identity.Principal{Type: k.Type, ID: k.Id, Issuer: identity.KeyIssuer, Client: k.Client, Tenant: k.Tenant, Roles: k.Roles}
			if p.Type == "" {
				p.Type = identity.Service
			}
			return p, nil
		}
		if !slices.Contains(known, k.Id) {
			known = append(known, k.Id)
		}
	}
	for _, l := range c.Listeners {
		if l.Anonymous == nil {
			continue
		}
		if req.As == identity.Anonymous {
			return &identity.Principal{Type: identity.Anonymous, ID: identity.Anonymous, Roles: l.Anonymous.Roles, Tenant: l.Anonymous.Tenant}, nil
		}
		if !slices.Contains(known, identity.Anonymous) {
			known = append(known, identity.Anonymous)
		}
	}
	there := "there are none"
	if len(known) > 0 {
		there = "there are: " + some(known)
	}
	return nil, fmt.Errorf("no API key has the id %q; %s. Describe the caller of a token with --role, --scope, --tenant and --claim", req.As, there)
}

// kindsOf are the kinds of item that a method uses.
func kindsOf(method string) ([]catalog.Kind, error) {
	switch method {
	case mcp.MethodToolsCall:
		return []catalog.Kind{catalog.Tool}, nil
	case mcp.MethodResourcesRead:
		return []catalog.Kind{catalog.Resource, catalog.Template}, nil
	case mcp.MethodPromptsGet:
		return []catalog.Kind{catalog.Prompt}, nil
	}
	return nil, fmt.Errorf("policy is not asked about %q: want %s, %s or %s", method, mcp.MethodToolsCall, mcp.MethodResourcesRead, mcp.MethodPromptsGet)
}

// viewsOf are the views to look at, endpoints before what they serve for one server.
func viewsOf(c *catalog.Catalog, endpoint string) ([]*catalog.View, error) {
	all := c.Views()
	if endpoint == "" {
		return all, nil
	}
	var paths []string
	for _, v := range all {
		if v.Path == endpoint || v.Endpoint == endpoint && v.Server == "" {
			return []*catalog.View{v}, nil
		}
		paths = append(paths, v.Path)
	}
	return nil, fmt.Errorf("there is no endpoint %s; there are: %s", endpoint, some(paths))
}

// findItem looks for a public name, as a call does; then for server/name; then for a name that one server alone has.
func findItem(views []*catalog.View, kinds []catalog.Kind, name string) (v *catalog.View, public string, modern bool) {
	resolve := func(v *catalog.View, name string) *catalog.Entry {
		if kinds[0] == catalog.Resource {
			return v.ResolveURI(name)
		}
		return v.Resolve(kinds[0], name)
	}
	for _, v := range views {
		if e := resolve(v, name); e != nil {
			return v, name, e.Modern
		}
	}
	server, own, qualified := strings.Cut(name, "/")
	for _, v := range views {
		var found []*catalog.Entry
		for _, e := range v.Entries(kinds[0], catalog.Legacy) {
			if e.Item.Name == name || qualified && e.Item.Server == server && e.Item.Name == own {
				found = append(found, e)
			}
		}
		if len(found) == 1 {
			return v, found[0].Public, found[0].Modern
		}
		if qualified && kinds[0] == catalog.Resource { // server/uri, by a template of that server
			if e := v.ResolveURI(own); e != nil && e.Item.Server == server {
				return v, own, e.Modern
			}
		}
	}
	return nil, "", false
}

// maxNear is how long names may be that are compared letter by letter, each with each.
const maxNear = 256

// noItem says which names are near to one that no endpoint has.
func noItem(views []*catalog.View, kinds []catalog.Kind, req *ExplainRequest) error {
	type near struct {
		name string
		far  int
	}
	var found []near
	seen := map[string]bool{}
	for _, v := range views {
		for _, k := range kinds {
			for _, e := range v.Entries(k, catalog.Legacy) {
				if seen[e.Public] {
					continue
				}
				seen[e.Public] = true
				if max(len(req.Name), len(e.Public), len(e.Item.Name)) > maxNear {
					continue
				}
				far := min(levenshtein.ComputeDistance(req.Name, e.Public), levenshtein.ComputeDistance(req.Name, e.Item.Name))
				if strings.Contains(e.Public, req.Name) || strings.Contains(req.Name, e.Item.Name) {
					far = min(far, 1)
				}
				if far <= max(2, len(req.Name)/3) {
					found = append(found, near{e.Public, far})
				}
			}
		}
	}
	slices.SortStableFunc(found, func(a, b near) int { return a.far - b.far })
	where := "no endpoint has"
	if req.Endpoint != "" {
		where = req.Endpoint + " has no"
	}
	text := fmt.Sprintf("%s %s %q", where, kinds[0], req.Name)
	if req.Endpoint == "" {
		text = fmt.Sprintf("%s a %s %q", where, kinds[0], req.Name)
	}
	if len(found) == 0 {
		return errors.New(text + "; mcpgw catalog shows what is served")
	}
	names := make([]string, len(found))
	for i, n := range found {
		names[i] = n.name
	}
	return errors.New(text + "; near to it: " + some(names))
}

// some are the first of many names.
func some(names []string) string {
	const most = 8
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

func explainedCaller(p *identity.Principal) ExplainedCaller {
	return ExplainedCaller{Type: p.Type, ID: p.ID, Issuer: p.Issuer, Client: p.Client, Tenant: p.Tenant, Roles: slices.Concat([]string{}, p.Roles), Scopes: p.Scopes}
}

func explainedCall(q *policy.Question) ExplainedCall {
	return ExplainedCall{Method: q.Action, Endpoint: q.Context.Endpoint, Era: q.Context.Era, Kind: q.Item.Kind, Server: q.Item.Server, Item: q.Item.Name}
}
