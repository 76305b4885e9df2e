package catalog

import (
	"time"

	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// Report is what an operator is told: what is served where, and why something is not.
type Report struct {
	Version   string           `json:"version"`
	Servers   []ServerReport   `json:"servers"`
	Endpoints []EndpointReport `json:"endpoints"`
}

// ServerReport is one server's part in the catalog.
type ServerReport struct {
	Server      string         `json:"server"`
	Health      string         `json:"health"`             // ok; degraded: last known items; unknown: never answered
	Degraded    string         `json:"degraded,omitempty"` // why, from a closed set
	Eras        []string       `json:"eras"`
	Revisions   []mcp.Revision `json:"revisions"`
	Fetched     time.Time      `json:"fetched,omitzero"`
	Items       map[Kind]int   `json:"items"`              // offered and acceptable
	Drift       map[string]int `json:"drift,omitempty"`    // how many items are new or changed since they were pinned
	Findings    []Found        `json:"findings,omitempty"` // items whose own words look wrong
	Quarantined []Quarantined  `json:"quarantined,omitempty"`
}

// Found is an item with findings.
type Found struct {
	Kind     Kind     `json:"kind"`
	Name     string   `json:"name"` // cut to 128 bytes
	Findings []string `json:"findings"`
}

// EndpointReport is one view of the catalog.
type EndpointReport struct {
	Endpoint    string        `json:"endpoint"`
	Path        string        `json:"path"`
	Server      string        `json:"server,omitempty"` // of a per-server view
	Served      []Served      `json:"served"`
	Quarantined []Quarantined `json:"quarantined,omitempty"` // acceptable items that this endpoint does not serve
	LeftOut     []LeftOut     `json:"left_out_for_modern,omitempty"`
}

// Served counts what an endpoint serves of one server, by kind.
type Served struct {
	Server string       `json:"server"`
	Modern map[Kind]int `json:"modern"`
	Legacy map[Kind]int `json:"legacy"`
}

// LeftOut counts items that legacy clients see and modern clients do not.
type LeftOut struct {
	Server string `json:"server"`
	Kind   Kind   `json:"kind"`
	Items  int    `json:"items"`
	Reason string `json:"reason"`
}

// Report tells what is served and what is not.
func (c *Catalog) Report() *Report {
	r := &Report{Version: c.version, Servers: []ServerReport{}, Endpoints: []EndpointReport{}}
	for _, s := range c.sources {
		sr := ServerReport{
			Server: s.Server, Health: "ok", Degraded: s.Degraded, Eras: []string{}, Revisions: s.Revisions,
			Fetched: s.Fetched, Items: map[Kind]int{}, Quarantined: s.Quarantined,
		}
		switch {
		case s.Fetched.IsZero():
			sr.Health = "unknown"
		case s.Degraded != "":
			sr.Health = "degraded"
		}
		if s.Modern {
			sr.Eras = append(sr.Eras, Modern.String())
		}
		if s.Legacy {
			sr.Eras = append(sr.Eras, Legacy.String())
		}
		for _, k := range Kinds {
			if n := len(s.Items[k]); n > 0 {
				sr.Items[k] = n
			}
			for _, i := range s.Items[k] {
				if i.Drift != "" {
					if sr.Drift == nil {
						sr.Drift = map[string]int{}
					}
					sr.Drift[i.Drift]++
				}
				if len(i.Findings) > 0 {
					sr.Findings = append(sr.Findings, Found{k, clip(i.Name), i.Findings})
				}
			}
		}
		r.Servers = append(r.Servers, sr)
	}
	for _, v := range c.views {
		r.Endpoints = append(r.Endpoints, v.report())
	}
	return r
}

func (v *View) report() EndpointReport {
	r := EndpointReport{
		Endpoint: v.Endpoint, Path: v.Path, Server: v.Server, Served: []Served{}, Quarantined: v.refused, LeftOut: v.leftOut,
	}
	at := map[string]int{}
	for n, s := range v.sources {
		at[s.Server] = n
		r.Served = append(r.Served, Served{s.Server, map[Kind]int{}, map[Kind]int{}})
	}
	for _, entries := range v.entries {
		for _, e := range entries {
			s := r.Served[at[e.Item.Server]]
			s.Legacy[e.Item.Kind]++
			if e.Modern {
				s.Modern[e.Item.Kind]++
			}
		}
	}
	return r
}
