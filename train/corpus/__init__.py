"""The DermCoT builder: labelled photographs and a teacher in, narratives that reason from findings to diagnosis out."""
