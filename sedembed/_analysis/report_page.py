"""The page of a report, for `string.Template`: no script, nothing from outside."""

from __future__ import annotations

__all__ = ["PAGE"]

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; --ground: #fff; --ink: #222; --faint: #4c5058; --line: #ccc; --thin: #e4e4e4;
  --link: #1f5fbf; }
@media screen and (prefers-color-scheme: dark) {
  :root { color-scheme: dark; --ground: #15171a; --ink: #eceef1; --faint: #a9aeb6; --line: #4a5059; --thin: #363b42;
    --link: #7db0ff; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 2em auto;
  max-width: 76em; padding: 0 1em; }
h1 { font-size: 1.7em; margin-bottom: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25em; margin-top: 2.2em; border-bottom: 1px solid var(--line); }
a { color: var(--link); }
figure { margin: 1em 0; }
figcaption { color: var(--faint); font-size: .9em; max-width: 48em; }
.fit, .wide { overflow: auto; }
.wide { max-height: 90vh; border: 1px solid var(--line); }
/* The pictures are drawn on white, whose colours another ground would change. */
img { display: block; background: #fff; }
.fit img { max-width: 100%; height: auto; border-radius: 4px; }
.scroll { overflow: auto; max-height: 90vh; }
table { border-collapse: collapse; font-size: .9em; }
th, td { text-align: left; vertical-align: top; padding: .2em .8em .2em 0; border-bottom: 1px solid var(--thin); }
td:first-child { white-space: nowrap; }
.settings td { overflow-wrap: anywhere; }
th { position: sticky; top: 0; background: var(--ground); }
.large { font-weight: 600; }
@media screen and (max-width: 700px) {
  body { margin: 1em auto; }
  ul { padding-left: 1.2em; }
  /* Scrolled to the side rather than too small to read. */
  .fit img { max-width: none; width: 640px; }
}
@media print { .fit, .wide, .scroll { overflow: visible; max-height: none; } .wide img { max-width: 100%; } }
</style>
</head>
<body>
<h1>$title</h1>
<p>$lead</p>

<h2>Before you read the pictures</h2>
<ul>
$notes
</ul>

<h2>Which classes are alike to the probe</h2>
<figure>
<div class="fit"><img alt="Dendrogram of the classes" src="data:image/svg+xml;base64,$dendrogram"></div>
<figcaption>Classes that join further to the right have rows of more similar direction. Numbers and colours are the
clusters that one cut through the tree gives; the same in all pictures.</figcaption>
</figure>
<figure>
<div class="fit"><img alt="The classes as points of a plane" src="data:image/svg+xml;base64,$tsne"></div>
</figure>

<h2>Which sound events explain the classes</h2>
<p>The ten strongest pairs; ● marks cosines of 0.2 and more, which the paper calls large.</p>
<div class="scroll">
<table>
<thead><tr><th>Class</th><th>Sound event</th><th>Cosine</th></tr></thead>
<tbody>
$pairs
</tbody>
</table>
</div>
<figure>
<div class="wide"><img alt="Cosines of the classes with their strongest events"
src="data:image/svg+xml;base64,$strongest"></div>
<figcaption>The events that are among the strongest of some class. Classes and events are in the order of their
trees.</figcaption>
</figure>
<p>For each class the five events of the largest cosine:</p>
<div class="scroll">
<table>
<thead><tr><th>Class</th><th>Cluster</th><th colspan="5">Sound events, strongest first</th></tr></thead>
<tbody>
$classes
</tbody>
</table>
</div>
<figure>
<div class="wide"><img alt="Cosines of all classes with all sound events"
src="data:image/svg+xml;base64,$correlation"></div>
<figcaption>All classes and all events; scroll to read. <a href="correlation.html">The same as a page</a> that zooms,
searches and names each cell.</figcaption>
</figure>

<h2>How this was made</h2>
<table class="settings">
<tbody>
$settings
</tbody>
</table>
<p>Source of the method: A. Kumar, Y. Wang, V. K. Ithapu, C. Fuegen: Do sound event representations generalize to other
audio tasks? A case study in audio transfer learning. 2021, section 5.</p>
</body>
</html>
"""
