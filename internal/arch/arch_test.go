package arch

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/varvelog/varve/"

// allowed lists, for each tree of packages, the trees that it may import
// besides its own. The longest matching tree decides.
var allowed = map[string][]string{
	"internal/arch":    {},
	"internal/kafka":   {},
	"internal/vfs":     {},
	"internal/hedge":   {},
	"internal/meta":    {"internal/hedge"},
	"internal/price":   {},
	"internal/catalog": {"internal/kafka", "internal/meta"},

	"tiering/objstore":   {"internal/vfs"},
	"tiering/objcache":   {"internal/vfs", "tiering/objstore"},
	"tiering/bundle":     {"internal/kafka", "tiering/objstore"},
	"tiering/wal":        {"internal/kafka", "internal/hedge", "tiering/objstore", "tiering/objcache", "tiering/bundle"},
	"tiering/upload":     {"internal/kafka", "internal/catalog", "tiering/objstore", "tiering/objcache", "tiering/bundle"},
	"tiering/cold":       {"internal/kafka", "internal/catalog", "tiering/objstore", "tiering/objcache", "tiering/bundle"},
	"tiering/recovery":   {"internal/kafka", "internal/catalog", "tiering/objstore", "tiering/bundle", "tiering/wal"},
	"tiering/retention":  {"internal/kafka", "internal/catalog", "tiering/objstore"},
	"tiering/compaction": {"internal/kafka", "internal/catalog", "tiering/objstore", "tiering/bundle", "tiering/cold", "tiering/upload"},
	"tiering/sweep":      {"internal/kafka", "internal/catalog", "tiering/objstore", "tiering/bundle", "tiering/wal", "tiering/upload", "tiering/compaction", "tiering/manifest"},
	"tiering/verify":     {"internal/kafka", "internal/catalog", "tiering"},
	"tiering/tiertest":   {"internal/kafka", "internal/catalog", "internal/meta", "tiering"},
	"tiering/manifest":   {"internal/kafka", "internal/catalog", "tiering/objstore"},
	"tiering/rebuild":    {"internal/kafka", "internal/catalog", "internal/meta", "tiering"},
	"tiering/cloud":      {"internal/meta", "tiering/objstore"},

	"engine/partition":  {"internal/kafka", "internal/catalog", "tiering"},
	"engine/member":     {"internal/kafka", "internal/catalog"},
	"engine/slot":       {"internal/kafka", "internal/catalog", "tiering", "engine/partition", "engine/member"},
	"engine/group":      {"internal/kafka", "internal/catalog"},
	"engine/peer":       {"internal/kafka"},
	"engine/txn":        {"internal/kafka", "internal/catalog", "engine/partition", "engine/group", "engine/member", "engine/peer"},
	"engine/api":        {"internal/kafka", "internal/catalog", "tiering/objcache", "engine/partition", "engine/group", "engine/txn", "engine/member", "engine/peer"},
	"engine/broker":     {"internal", "tiering", "engine"},
	"engine/enginetest": {"internal", "tiering", "engine"},

	"bench":          {"internal", "tiering", "clients"},
	"clients/varve":  {"clients/replay"},
	"clients/replay": {"internal/kafka", "internal/catalog", "internal/meta", "internal/vfs", "tiering"},
	"functions":      {"internal", "tiering"},
	"infra":          {},
	"cmd":            {"internal", "tiering", "engine", "clients"},
}

// awsTrees are the only ones that may import the AWS SDK.
var awsTrees = []string{"internal/meta/dynamo", "tiering/objstore/s3store", "tiering/cloud", "functions", "cmd", "infra"}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		from := strings.TrimPrefix(fields[0], module)
		tree := treeOf(from)
		if tree == "" {
			t.Errorf("%s: no rule", from)
		}
		for _, imp := range fields[1:] {
			to, ours := strings.CutPrefix(imp, module)
			if ours && !within(to, tree) && !within(to, allowed[tree]...) {
				t.Errorf("%s must not import %s", from, to)
			}
			if strings.HasPrefix(imp, "github.com/aws/") && !within(from, awsTrees...) {
				t.Errorf("%s must not import %s: the AWS SDK belongs to the adapters", from, imp)
			}
		}
	}
}

func treeOf(pkg string) (tree string) {
	for t := range allowed {
		if within(pkg, t) && len(t) > len(tree) {
			tree = t
		}
	}
	return tree
}

func within(pkg string, trees ...string) bool {
	for _, tree := range trees {
		if pkg == tree || strings.HasPrefix(pkg, tree+"/") {
			return true
		}
	}
	return false
}
