"""The one legend of shape letters, used by every docstring and trailing shape comment.

B batch · I images · F frames · P patches · N visual tokens · T text tokens · S key length · Q queries
H heads · K key/value heads · G query heads per key/value head (H / K) · C head dim · D width · V vocabulary
M mlp width · L layers · E embedding (joint) dim · h, w height and width in pixels or patches
"""
