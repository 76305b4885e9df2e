package catalog

import (
	"encoding/binary"
	"hash"
	"io"
)

// hasher writes values so that no two different sequences give the same bytes.
type hasher struct{ hash.Hash }

func (h hasher) ints(values ...int) {
	var b [8]byte
	for _, v := range values {
		binary.BigEndian.PutUint64(b[:], uint64(v))
		h.Write(b[:])
	}
}

func (h hasher) strings(values ...string) {
	for _, v := range values {
		h.ints(len(v))
		io.WriteString(h, v) //nolint:errcheck // a hash never fails
	}
}

func (h hasher) bools(values ...bool) {
	for _, v := range values {
		n := 0
		if v {
			n = 1
		}
		h.ints(n)
	}
}

func (h hasher) item(i *Item) {
	h.ints(int(i.Kind), len(i.Tags), len(i.Findings))
	h.strings(i.Server, i.Name, i.Digest, string(i.Annotations), i.Drift)
	h.strings(i.Tags...)
	h.strings(i.Findings...)
}
