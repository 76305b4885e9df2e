package sse

import "strings"

// Append appends the event as a reader expects it, its blank line included. Data with line breaks (\n, \r\n or \r) becomes several data lines, a comment
// with line breaks several comment lines. What the format cannot express is left out, never let through as a line of its own: an ID with a line break
// or NUL, a Name with a line break, a Retry that is not all digits.
func Append(dst []byte, e Event) []byte {
	if e.Comment {
		return append(appendLines(dst, ":", e.Data), '\n')
	}
	if e.ID != "" && !strings.ContainsAny(e.ID, "\r\n\x00") {
		dst = append(append(append(dst, "id: "...), e.ID...), '\n')
	}
	if e.Name != "" && !strings.ContainsAny(e.Name, "\r\n") {
		dst = append(append(append(dst, "event: "...), e.Name...), '\n')
	}
	if digits(e.Retry) {
		dst = append(append(append(dst, "retry: "...), e.Retry...), '\n')
	}
	if e.Data != nil {
		dst = appendLines(dst, "data:", e.Data)
	}
	return append(dst, '\n')
}

// appendLines appends each line of text behind the prefix.
func appendLines(dst []byte, prefix string, text []byte) []byte {
	for {
		n := lineEnd(text)
		line := text
		if n >= 0 {
			line = text[:n]
		}
		dst = append(append(append(append(dst, prefix...), ' '), line...), '\n')
		if n < 0 {
			return dst
		}
		if text[n] == '\r' && n+1 < len(text) && text[n+1] == '\n' {
			n++
		}
		text = text[n+1:]
	}
}
