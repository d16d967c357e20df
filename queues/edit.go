package queues

import "slices"

// Field is one top-level field to set. Raw is canonical JSON text (see JSONString, JSONFloatSeconds, JSONInt); Raw ""
// deletes the field.
type Field struct{ Name, Raw string }

// SetFields returns payload with the given top-level fields set and every other byte as it was. A field that is there
// is changed in its place, where Ruby's hash would keep it; one that is not is appended before the closing brace; one
// that is there more than once becomes single. If a name is given twice the last one counts. It gives a
// *MalformedJobError if payload is not a JSON object.
func SetFields(payload string, fields ...Field) (string, error) {
	var (
		room  [40]member
		found = room[:0]
		p     = scanner{s: payload}
	)
	var one member
	for p.begin(); p.member(&one); {
		found = append(found, one)
	}
	if err := p.malformed(); err != nil {
		return "", err
	}
	size, begin, rest := len(payload), p.closing, p.closing
	for _, f := range fields {
		size += len(f.Name) + len(f.Raw) + len(`,"":`)
	}
	if len(found) > 0 {
		begin, rest = found[0].start, found[len(found)-1].end
	}
	out := append(make([]byte, 0, size), payload[:begin]...)
	done := make([]bool, len(fields))
	empty := true
	for k := range found {
		m := &found[k]
		f := fieldNamed(fields, m.name(payload))
		if f >= 0 && (done[f] || fields[f].Raw == "") {
			continue
		}
		if !empty {
			out = append(out, payload[found[k-1].end:m.start]...)
		}
		empty = false
		if f < 0 {
			out = append(out, payload[m.start:m.end]...)
			continue
		}
		done[f] = true
		out = append(append(out, payload[m.start:m.value]...), fields[f].Raw...)
	}
	for k, f := range fields {
		if done[k] || f.Raw == "" || fieldNamed(fields, f.Name) != k {
			continue
		}
		if !empty {
			out = append(out, ',')
		}
		empty = false
		out = append(append(appendString(out, f.Name), ':'), f.Raw...)
	}
	return string(append(out, payload[rest:]...)), nil
}

// fieldNamed returns the index of the last field with that name, -1 if there is none.
func fieldNamed(fields []Field, name string) int {
	for k, f := range slices.Backward(fields) {
		if f.Name == name {
			return k
		}
	}
	return -1
}
