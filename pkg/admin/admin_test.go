package admin

import (
	"crypto/sha256"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestRoutes: what not everybody may do needs the key of an operator who may, or a guarded socket; a browser's page gets nothing.
func TestRoutes(t *testing.T) {
	o := Options{
		Ready: func() error { return nil }, Metrics: http.NotFoundHandler(), Catalog: func() any { return nil },
		Operators: func() []Operator {
			return []Operator{{ID: "ann", Digest: sha256.Sum256([]byte("a-key")), May: []string{"explain"}}, {ID: "bob", Digest: sha256.Sum256([]byte("b-key")), May: []string{"approve"}}}
		},
		Routes: []Route{{Pattern: "POST /explain/{id}", May: "explain", Serve: func(w http.ResponseWriter, r *http.Request, operator string) {
			if _, err := io.ReadAll(r.Body); err != nil {
				Fail(w, http.StatusRequestEntityTooLarge, err.Error())
				return
			}
			Write(w, map[string]string{"id": r.PathValue("id"), "operator": operator})
		}}},
	}
	for name, tc := range map[string]struct {
		guarded bool
		header  [2]string
		body    string
		status  int
		want    string
	}{
		"a key that may":           {header: [2]string{"authorization", "Bearer a-key"}, status: 200, want: `"operator": "ann"`},
		"a key that may not":       {header: [2]string{"authorization", "Bearer b-key"}, status: 403, want: "operator bob may not do this: `may` of admin.operators does not name explain"},
		"a wrong key":              {header: [2]string{"authorization", "Bearer c-key"}, status: 401, want: "no operator has this key"},
		"no key":                   {status: 401, want: "admin.operators"},
		"another scheme":           {header: [2]string{"authorization", "Basic a-key"}, status: 401, want: "admin.operators"},
		"a guarded socket":         {guarded: true, status: 200, want: `"operator": "socket"`},
		"a wrong key on a socket":  {guarded: true, header: [2]string{"authorization", "Bearer c-key"}, status: 401, want: "no operator has this key"},
		"a page":                   {guarded: true, header: [2]string{"origin", "https://evil.example.org"}, status: 403, want: "browsers"},
		"a page without an origin": {guarded: true, header: [2]string{"sec-fetch-site", "none"}, status: 403, want: "browsers"},
		"too much":                 {guarded: true, body: strings.Repeat("x", maxRequest+1), status: 413, want: "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			o.Guarded = tc.guarded
			r := httptest.NewRequest(http.MethodPost, "/explain/7", strings.NewReader(tc.body))
			if tc.header[0] != "" {
				r.Header.Set(tc.header[0], tc.header[1])
			}
			w := httptest.NewRecorder()
			Handler(o).ServeHTTP(w, r)
			if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.want) {
				t.Errorf("status %d, %s\nwant %d, %s", w.Code, w.Body, tc.status, tc.want)
			}
		})
	}
}
