package policy

import (
	"reflect"
	"testing"
)

// TestParserAgrees: a parser reads what ParseQuestion reads, and shares what is equal.
func TestParserAgrees(t *testing.T) {
	var p Parser
	texts := []string{
		`{}`,
		`{"subject":{"id":"a","roles":["r"],"claims":{"n":1.0}},"action":{"name":"tools/call"},"resource":{"type":"tool","server":"s","name":"n","annotations":{"readOnlyHint":true}},"arguments":{"a":9007199254740993},"context":{"request_id":"1","round":2,"time":"2026-01-02T03:04:05.678Z","session":{"labels":["x"],"lost":true}}}`,
		`{"subject":{"id":"a","roles":["r"],"claims":{"n":1.0}},"action":{"name":"resources/read"},"resource":{"type":"template","server":"s","name":"t","uri":"a://b"},"context":{"request_id":"2"}}`,
		`{"subject":5}`, `{"foo":1}`, `{"arguments":[]}`, `{"resource":{"type":"x"}}`, `[]`, `{"context":{"time":"x"}}`, `{"subject":{"id":"a","id":"b"}}`,
	}
	for range 2 {
		for _, text := range texts {
			want, err1 := ParseQuestion([]byte(text))
			got, err2 := p.Parse([]byte(text))
			if (err1 == nil) != (err2 == nil) {
				t.Errorf("%s: %v, want %v", text, err2, err1)
				continue
			}
			if err1 == nil && (!reflect.DeepEqual(got.Subject, want.Subject) || string(got.AppendJSON(nil)) != string(want.AppendJSON(nil))) {
				t.Errorf("%s:\n got %s\nwant %s", text, got.AppendJSON(nil), want.AppendJSON(nil))
			}
		}
	}
	a, _ := p.Parse([]byte(texts[1]))
	b, _ := p.Parse([]byte(texts[1]))
	if a.Subject != b.Subject || a.Item != b.Item {
		t.Error("equal subjects or items are not shared")
	}
}
