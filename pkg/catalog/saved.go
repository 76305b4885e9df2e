package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// Saved is a catalog's items as policy sees them, without their definitions: what tests of a policy ask about. It is written and read
// as JSON.
type Saved struct {
	Items []SavedItem `json:"items"`
}

// SavedItem is one item, in the words of the question that policy is asked.
type SavedItem struct {
	Server      string          `json:"server"`
	Kind        Kind            `json:"type"`
	Name        string          `json:"name"`
	Title       string          `json:"title,omitempty"`
	Annotations json.RawMessage `json:"annotations,omitempty"`
	Claimed     json.RawMessage `json:"claimed,omitempty"`
	Tags        []string        `json:"tags,omitempty"`
	Digest      string          `json:"digest,omitempty"`
	Drift       string          `json:"drift,omitempty"`
	Findings    []string        `json:"findings,omitempty"`
}

// Save takes down every acceptable item of every server, in configuration order.
func (c *Catalog) Save() *Saved {
	s := &Saved{Items: []SavedItem{}}
	for _, src := range c.sources {
		for _, items := range src.Items {
			for _, i := range items {
				s.Items = append(s.Items, SavedItem{
					Server: i.Server, Kind: i.Kind, Name: i.Name, Title: i.Title, Annotations: i.Annotations, Claimed: i.Claimed,
					Tags: i.Tags, Digest: i.Digest, Drift: i.Drift, Findings: i.Findings,
				})
			}
		}
	}
	return s
}

// ReadSaved reads what [Catalog.Save] took down, as JSON. It takes no member that it does not know, and no item twice.
func ReadSaved(text []byte) (*Directory, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var s Saved
	if err := d.Decode(&s); err != nil {
		line := 1 + bytes.Count(text[:min(int(d.InputOffset()), len(text))], []byte("\n"))
		return nil, fmt.Errorf("line %d: no saved catalog: %w", line, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the saved catalog")
	}
	return s.Directory()
}

// Directory makes the items ready to be found.
func (s *Saved) Directory() (*Directory, error) {
	d := &Directory{servers: map[string]*View{}}
	for n, saved := range s.Items {
		i := &Item{
			Server: saved.Server, Kind: saved.Kind, Name: saved.Name, Title: saved.Title, Tags: saved.Tags,
			Digest: saved.Digest, Drift: saved.Drift, Findings: saved.Findings,
		}
		fail := func(format string, args ...any) error {
			return fmt.Errorf("item %d (%s %s): %w", n+1, i.Kind, clip(i.ID()), fmt.Errorf(format, args...))
		}
		if i.Server == "" || i.Name == "" {
			return nil, fail("server or name is missing")
		}
		for into, text := range map[*[]byte]json.RawMessage{&i.Annotations: saved.Annotations, &i.Claimed: saved.Claimed} {
			if len(text) == 0 {
				continue
			}
			if _, err := jsonrpc.Parse(text, jsonrpc.Limits{Depth: maxDepth}); err != nil {
				return nil, fail("annotations and claimed must be objects: %w", err)
			}
			var b bytes.Buffer
			if err := json.Compact(&b, text); err != nil {
				return nil, fail("%w", err)
			}
			*into = b.Bytes()
		}
		v := d.servers[i.Server]
		if v == nil {
			v = &View{Server: i.Server}
			for k := range v.names {
				v.names[k] = map[string]*Entry{}
			}
			d.servers[i.Server] = v
			d.names = append(d.names, i.Server)
		}
		if v.names[i.Kind][i.Name] != nil {
			return nil, fail("it stands there twice")
		}
		e := &Entry{Item: i, Public: i.Name, Modern: true}
		if i.Kind == Template {
			var err error
			if e, err = newEntry(i, i.Name, true); err != nil {
				return nil, fail("%w", err)
			}
			v.templates = append(v.templates, e)
		}
		v.names[i.Kind][i.Name] = e
		v.entries[i.Kind] = append(v.entries[i.Kind], e)
	}
	return d, nil
}

// Directory finds the items of a saved catalog by server. It is immutable.
type Directory struct {
	servers map[string]*View
	names   []string
}

// Find finds an item by its origin's own name, nil where there is none. A resource is found as calls find it: by its URI, else the first
// template that the URI matches; see [View.ResolveURI].
func (d *Directory) Find(server string, kind Kind, name string) *Item {
	v := d.servers[server]
	if v == nil {
		return nil
	}
	e := v.Resolve(kind, name)
	if e == nil && kind == Resource {
		e = v.ResolveURI(name)
	}
	if e == nil {
		return nil
	}
	return e.Item
}

// Servers lists the servers that have items. The slice is shared.
func (d *Directory) Servers() []string { return d.names }

// Names lists a server's items of a kind.
func (d *Directory) Names(server string, kind Kind) (out []string) {
	if v := d.servers[server]; v != nil {
		for _, e := range v.entries[kind] {
			out = append(out, e.Item.Name)
		}
	}
	return out
}
