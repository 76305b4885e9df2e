package catalog

import (
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// ErrCursor says that a cursor is not one of ours.
var ErrCursor = errors.New("bad cursor")

// maxCursor bounds a cursor: a position and the longest name, in Base64.
const maxCursor = 2 * maxURI

// listKey is the member of a list result that holds the items.
var listKey = [len(Kinds)]string{Tool: "tools", Resource: "resources", Template: "resourceTemplates", Prompt: "prompts"}

// Page cuts one page out of what a caller may see: entries is [View.Entries], filtered by the caller, in the same order.
// next is the cursor of the page after it, empty when there is none. An empty cursor begins at the start; one that is
// not ours gives ErrCursor.
//
// A cursor names the last item shown and its place among the visible ones, so it tells nothing of hidden items. When that
// item is gone, the page goes on at the place where it stood.
func (v *View) Page(entries []*Entry, cursor string) (page []*Entry, next string, err error) {
	after := 0
	if cursor != "" {
		at, name, err := readCursor(cursor)
		if err != nil {
			return nil, "", err
		}
		is := func(e *Entry) bool { return e.Public == name }
		if at < len(entries) && is(entries[at]) {
			after = at + 1
		} else if n := slices.IndexFunc(entries, is); n >= 0 {
			after = n + 1
		} else {
			after = min(at, len(entries))
		}
	}
	end := min(after+v.pageSize, len(entries))
	if end < len(entries) {
		next = writeCursor(end-1, entries[end-1].Public)
	}
	return entries[after:end], next, nil
}

func writeCursor(at int, name string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.Itoa(at) + " " + name))
}

func readCursor(s string) (at int, name string, err error) {
	if len(s) > maxCursor {
		return 0, "", ErrCursor
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return 0, "", ErrCursor
	}
	place, name, ok := strings.Cut(string(b), " ")
	at, err = strconv.Atoi(place)
	if err != nil || !ok || name == "" || at < 0 || place != strconv.Itoa(at) {
		return 0, "", ErrCursor
	}
	return at, name, nil
}

// AppendList appends a list result, joined from ready fragments: nothing is encoded. members are further members of the
// result, each the JSON text of one ("\"_meta\":{…}"). For modern clients resultType, ttlMs and cacheScope "private" follow.
func (v *View) AppendList(dst []byte, kind Kind, era Era, entries []*Entry, next string, members ...[]byte) []byte {
	size := 64 + len(v.tail[era]) + len(next)
	for _, e := range entries {
		size += len(e.fragments[era]) + 1
	}
	for _, m := range members {
		size += len(m) + 1
	}
	dst = slices.Grow(dst, size)
	dst = append(dst, `{"`...)
	dst = append(dst, listKey[kind]...)
	dst = append(dst, `":[`...)
	for n, e := range entries {
		if n > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, e.fragments[era]...)
	}
	dst = append(dst, ']')
	if next != "" {
		dst = append(dst, `,"nextCursor":`...)
		dst = jsonrpc.AppendString(dst, next)
	}
	dst = append(dst, v.tail[era]...)
	for _, m := range members {
		dst = append(append(dst, ','), m...)
	}
	return append(dst, '}')
}
