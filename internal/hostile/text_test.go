package hostile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// texts are files that are no manifests, or strange ones.
func texts(w *world) []input {
	service := func(name, ip string) string {
		return object("Service", name, `{clusterIP: `+ip+`, ports: [{name: tcp, port: 9000}]}`)
	}
	x := service("x", "10.96.0.50")
	good := map[string]string{"x.yaml": x, "slice.yaml": w.slice("x", "tcp", 9000)}
	inForce := serves("10.96.0.50:9000")
	const bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n" +
		"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n" +
		"g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n"
	block := "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\nspec:\n  clusterIP: 10.96.0.50\n  ports:\n  - name: tcp\n    port: 9000\n"
	return []input{
		{
			name: "10 MB of a Secret", good: good, holds: inForce,
			bad:  map[string]string{"secret.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {a: " + strings.Repeat("a", 10<<20) + "}\n"},
			says: []string{"secret.yaml … source TooLarge … is larger than the limit of 4194304 bytes; split it into several files"},
		},
		{
			name: "3 MB of a Secret", good: good, holds: inForce,
			bad: map[string]string{"secret.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {a: " + strings.Repeat("a", 3<<20) + "}\n"},
			// As the API server has it (validation.MaxSecretSize).
			says: []string{"Secret default/x … data: must be at most 1048576 bytes"},
		},
		{
			name: "10 MB over a good file", good: good, holds: inForce, bad: one(x + strings.Repeat("# nothing\n", 1<<20)),
			says: []string{"x.yaml … is larger than the limit of 4194304 bytes; split it into several files"},
		},
		{
			name: "binary garbage", good: good, holds: inForce, bad: one("\x7fELF\x02\x01\x01\x00\xff\xfe\x00\x80garbage"),
			says: []string{"x.yaml … ParseError … not YAML"},
		},
		{
			name: "an alias bomb", good: good, holds: inForce, bad: one(bomb),
			says: []string{"x.yaml … kind: is missing"},
		},
		{
			name: "an alias bomb in an object", good: good, holds: inForce,
			bad:  one("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec:\n" + indent(bomb)),
			says: []string{"Service default/x … more than 262144 values, aliases counted as what they stand for"},
		},
		{
			name: "an alias of itself", good: good, holds: inForce, bad: one("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: &a {x: *a}\n"),
			says: []string{"x.yaml … nested deeper than 100 levels"},
		},
		{
			name: "nested deeply", good: good, holds: inForce, bad: one("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "\n"),
			says: []string{"x.yaml … nested deeper than 100 levels"},
		},
		{
			name: "nested beyond the parser", good: good, holds: inForce, bad: one("spec: " + strings.Repeat("[", 500_000)),
			says: []string{"x.yaml … not YAML: … depth"},
		},
		{
			name: "JSON nested deeply", good: good, holds: inForce, bad: map[string]string{"x.json": `{"a":` + strings.Repeat("[", 500_000)},
			says: []string{"x.json:1 … not JSON: nested deeper than 100 levels"},
		},
		{
			name: "half of a document", good: good, holds: inForce, bad: one("apiVersion: v1\nkind: Service\nmetadata:\n  name: x\nspec:\n  ports: [{name: tcp, po"),
			says: []string{"x.yaml:5 … not YAML"},
		},
		{
			name: "an empty file over a good one", good: good, bad: one(""),
		},
		{
			name: "a JSON file that breaks in the middle", holds: inForce,
			good: map[string]string{"x.json": `{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"clusterIP": "10.96.0.50", "ports": [{"name": "tcp", "port": 9000}]}}`, "slice.yaml": w.slice("x", "tcp", 9000)},
			bad:  map[string]string{"x.json": "{\n\"apiVersion\": \"v1\",\n\"kind\": \"Service\",\n\"metadata\": {\"na"},
			says: []string{"x.json:4 … not JSON: ends in the middle of a value"},
		},
		{
			name: "one object in two files", good: good, holds: inForce, bad: map[string]string{"y.yaml": service("x", "10.96.0.60")},
			says: []string{"Service default/x … y.yaml:2: … x.yaml:2"},
		},
		{
			name: "one object twice in a file", bad: one(x + service("x", "10.96.0.60") + w.slice("x", "tcp", 9000)), holds: inForce,
			says: []string{"Service default/x … x.yaml:7: … x.yaml:2"},
		},
		{
			name: "an unknown kind", bad: one("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n"),
			says: []string{"x.yaml:1 … left alone, Deployment of apps/v1 is no kind that sluice reads"},
		},
		{
			name: "a kind with a typing error", bad: one("apiVersion: v1\nkind: Sevrice\nmetadata: {name: x}\n"),
			says: []string{"x.yaml:1 … Sevrice of v1 is no kind that sluice reads"},
		},
		{
			name: "an unknown apiVersion", good: good, holds: inForce, bad: one(strings.Replace(x, "v1", "v7", 1)),
			says: []string{`Service default/x … x.yaml … apiVersion: must be v1, found "v7"`},
		},
		{
			name: "no kind", bad: one("apiVersion: v1\nmetadata: {name: x}\n"), says: []string{"x.yaml:1 … kind: is missing"},
		},
		{
			name: "no apiVersion", bad: one("kind: Service\nmetadata: {name: x}\n"), says: []string{"x.yaml:1 … apiVersion: is missing"},
		},
		{
			name: "no name", bad: one("apiVersion: v1\nkind: Service\nspec: {ports: [{port: 1}]}\n"), says: []string{"x.yaml:1 … metadata.name: is missing"},
		},
		{
			name: "a key that is there twice", good: good, holds: inForce, bad: one(strings.Replace(block, "spec:", "spec: {}\nspec:", 1)),
			says: []string{`x.yaml … "spec" … twice`},
		},
		{name: "Windows' ends of lines", bad: one(strings.ReplaceAll(block+w.slice("x", "tcp", 9000), "\n", "\r\n")), holds: inForce},
		{name: "a byte order mark", bad: one("\ufeff" + block + w.slice("x", "tcp", 9000)), holds: inForce},
		{
			name: "tabs", good: good, holds: inForce, bad: one(strings.Replace(block, "  clusterIP", "\tclusterIP", 1)),
			says: []string{"x.yaml:6 … not YAML: found character that cannot start any token; indent with spaces, not tabs"},
		},
		{
			name: "UTF-16", good: good, holds: inForce, bad: one("\xff\xfe" + strings.Join(strings.Split(block, ""), "\x00") + "\x00"),
		},
		{
			name: "plain text", good: good, holds: inForce, bad: one("hello world\n"),
			says: []string{"x.yaml:1 … a document must be a mapping with apiVersion and kind"},
		},
		{
			name: "a template", good: good, holds: inForce, bad: one(strings.Replace(block, "9000", "{{ .Values.port }}", 1)),
			says: []string{"x.yaml:9 … "},
		},
	}
}

// files are entries of the directory that are no ordinary file.
func files(w *world) []input {
	service := object("Service", "x", `{clusterIP: 10.96.0.50, ports: [{name: tcp, port: 9000}]}`) + w.slice("x", "tcp", 9000)
	inForce := serves("10.96.0.50:9000")
	at := func(f func(path string) error) func(string) error {
		return func(dir string) error { return f(filepath.Join(dir, "z.yaml")) }
	}
	good := one(service)
	return []input{
		{
			name: "a named pipe", good: good, holds: inForce,
			arrange: at(func(path string) error {
				// The second makes the kernel tell of a change to it.
				return errors.Join(unix.Mkfifo(path, 0o600), os.Chmod(path, 0o644))
			}),
			says: []string{"z.yaml … Unreadable … is a named pipe, not a file"},
		},
		{
			name: "a socket", good: good, holds: inForce,
			arrange: at(func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) }),
			says:    []string{"z.yaml … Unreadable … is a socket, not a file"},
		},
		{
			name: "a link to nothing", good: good, holds: inForce,
			arrange: at(func(path string) error { return os.Symlink("nothing", path) }),
			says:    []string{`z.yaml … Unreadable … links to nothing`},
		},
		{
			name: "a link to itself", good: good, holds: inForce,
			arrange: at(func(path string) error { return os.Symlink("z.yaml", path) }),
			says:    []string{"z.yaml … Unreadable … "},
		},
		{
			name: "a link to a device", good: good, holds: inForce,
			arrange: at(func(path string) error { return os.Symlink("/dev/zero", path) }),
			says:    []string{"z.yaml … Unreadable … is a device, not a file"},
		},
		{
			name: "a link to the folder above", good: good, holds: inForce,
			arrange: func(dir string) error { return os.Symlink("..", filepath.Join(dir, "up")) },
			says:    nil, // what is there twice is read once
		},
		{
			name: "a folder with the name of a file", bad: map[string]string{"z.yaml/x.yaml": service}, holds: inForce,
		},
		{
			name: "a file that is removed while it is broken", bad: one("broken: ["),
			says: []string{"x.yaml … not YAML"},
		},
	}
}
