# The book, rendered: each page is there, and each link leads to a file of it and to a heading in that file.
mdbook build docs -d "$HERE/book"
for page in docs/book/src/*.md; do
    test -s "$HERE/book/book/src/$(basename "$page" .md).html"
done
grep -q 'etcdctl' "$HERE/book/book/src/first-steps.html"
python3 - "$HERE/book" <<'END'
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.anchors, self.links = {""}, []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors.add(attributes.get("id"))
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]

pages = {path.resolve(): Page(path) for path in Path(sys.argv[1]).rglob("*.html")}
count, dead = 0, []
for path, page in pages.items():
    for link in map(urlsplit, page.links):
        if link.scheme or path.name == "404.html":
            continue
        target = (path.parent / unquote(link.path)).resolve() if link.path else path
        leads = target.is_file() and (target not in pages or unquote(link.fragment) in pages[target].anchors)
        count += 1
        if not leads:
            dead.append(f"{path}: {link.geturl()}")
print(f"{len(pages)} pages, {count} links")
sys.exit("\n".join(dead) if dead or count < 1000 else 0)
END
