package spec

import (
	"testing"
)

func TestUnmarshalSaysWhere(t *testing.T) {
	for _, v := range []struct{ text, want string }{
		{"{\n  \"a\": 1,\n  }\n", "line 3, column 3: invalid character '}' looking for beginning of object key string"},
		{"{\n", "line 1, column 2: the file ends in the middle of the JSON document"},
		{"", "the file is empty"},
		{"{\n  \"a\": \"x\"}", "line 2, column 10: A must be a int, not a string"},
		{"{} x", "line 1, column 3: there is text after the end of the JSON document"},
		{"[]", "line 1, column 1: the document must be a struct { A int }, not a array"},
	} {
		var to struct{ A int }
		if err := Unmarshal([]byte(v.text), &to); err == nil || err.Error() != v.want {
			t.Errorf("%q: got %v, want %s", v.text, err, v.want)
		}
	}
	var to struct{ A int }
	if err := Unmarshal([]byte(`{"a": 3}`), &to); err != nil || to.A != 3 {
		t.Errorf("got %+v, %v", to, err)
	}
}
